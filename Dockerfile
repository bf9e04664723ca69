# What docker-compose.yml runs: `server` serves Prefect's API, `worker` runs the flows.
#   docker build --target worker --tag kvembed-worker .
#   docker build --target worker --build-arg TORCH_ARGS="--index-url …" --tag kvembed-worker:cpu .
# All versions are those of constraints.txt; Python's is the one they were made for.
FROM python:3.11.14-slim-bookworm AS base
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1
# The folders are volumes in docker-compose.yml, which take the owner of what they are mounted on.
RUN python -m venv /opt/venv \
 && useradd --create-home --uid 10001 kvembed \
 && install --directory --owner=kvembed /home/kvembed/.cache /home/kvembed/.prefect /store
COPY constraints.txt /tmp/constraints.txt


FROM base AS server
# Constrained, because a later fastapi than the one pinned breaks every flow.
RUN pip install --constraint /tmp/constraints.txt prefect
USER 10001
WORKDIR /home/kvembed
CMD ["prefect", "server", "start"]


FROM base AS wheel
RUN pip install --constraint /tmp/constraints.txt hatchling
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY kvembed kvembed
COPY pipelines pipelines
COPY flows flows
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheel .


FROM base AS worker
# torch first and alone, as in the Makefile: with its pin in place nothing later can ask for another build of it. pip's
# default index has the CUDA build; what else pip needs for the CPU wheels, which save gigabytes, is TORCH_ARGS.
ARG TORCH_ARGS=""
RUN pip install --constraint /tmp/constraints.txt $TORCH_ARGS torch
# What the code needs changes less often than the code, so that a new version of it is one small layer.
ARG EXTRAS=html,pdf,docx
COPY pyproject.toml /tmp/pyproject.toml
RUN python -c "import sys, tomllib; \
project = tomllib.load(open('/tmp/pyproject.toml', 'rb'))['project']; \
extras = [need for name in sys.argv[1].split(',') if name for need in project['optional-dependencies'][name]]; \
print('\n'.join(project['dependencies'] + extras))" "$EXTRAS" > /tmp/requirements.txt \
 && pip install --constraint /tmp/constraints.txt --requirement /tmp/requirements.txt
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel pip install --no-deps /wheel/*.whl
USER 10001
# `prefect deploy` reads prefect.yaml here; the flows themselves are installed.
WORKDIR /app
COPY prefect.yaml ./
ENV PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_WORKER_WEBSERVER_HOST=127.0.0.1
CMD ["python", "-m", "flows.worker", "--pool", "kvembed-cpu", "--limit", "1", "--with-healthcheck"]
