"""The turns of one entity, a file per kind; each builds on the one before: record, resumes, rebuild, handlers, queries,
requests. `activation.Activation` is the whole.
"""
