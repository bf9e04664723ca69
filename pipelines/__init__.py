"""Documents to chunks to points to a collection, and back out.

Imports kvembed and qdrant_client, never Prefect.
"""
