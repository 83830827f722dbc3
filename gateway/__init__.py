"""The REST gateway: a thin FastAPI application in front of Triton."""
