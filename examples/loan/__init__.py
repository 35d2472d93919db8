"""Loan application: papers, reminders, a slow check, and a person who decides."""
