"""The console: pages for people, served by the gateway at `/console/`.

The pages are static files (own HTML, CSS, ES modules: no build step, nothing from elsewhere) that talk to the gateway's
HTTP API with the caller's own credential. They hold no data and name nothing, so they open without one; whatever they
show has been asked for through `/console/api/…`, which is the API itself under another prefix, with the same guard, the
same grants and the same audit log. So the console can do nothing that `curl` could not.
"""
