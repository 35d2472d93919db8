"""What people and programs touch: gateway, console and command line."""
