# One file, two images: `--target api` without torch, `--target worker` with it. Configure by environment only.
FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srv/nlft
# The folders that volumes are mounted on belong to the user from the start, so that named volumes do too.
RUN useradd --system --uid 10001 --home-dir /var/lib/nlft nlft \
    && install -d -o nlft -g nlft -m 0700 /var/lib/nlft /var/lib/nlft/state /var/lib/nlft/blobs /var/lib/nlft/models
ENV NLFT_STATE_DIR=/var/lib/nlft/state NLFT_MODEL_CACHE=/var/lib/nlft/models
COPY pyproject.toml constraints.txt README.md ./

# The slim image has no C compiler.
FROM python:3.11 AS compiled
WORKDIR /srv/nlft
COPY pyproject.toml setup.py README.md ./
COPY worker worker
RUN pip install --no-deps --editable .

FROM base AS api
# Dependencies first and alone: this layer stays as long as they do.
RUN pip install --constraint constraints.txt . && pip uninstall --yes nlft
COPY alembic.ini setup.py ./
COPY migrations migrations
COPY app app
COPY worker worker
COPY --from=compiled /srv/nlft/worker/training/data/_plain_scan.abi3.so worker/training/data/
RUN pip install --no-deps --editable .
USER nlft
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=4)"]
CMD ["nlft", "serve", "--host", "0.0.0.0", "--port", "8000"]

FROM base AS worker
# torch first and alone, as `make install` does; the wheel brings the CUDA libraries, the host brings the driver.
RUN pip install --constraint constraints.txt torch
RUN pip install --constraint constraints.txt '.[worker]' && pip uninstall --yes nlft
COPY alembic.ini setup.py ./
COPY migrations migrations
COPY app app
COPY worker worker
COPY --from=compiled /srv/nlft/worker/training/data/_plain_scan.abi3.so worker/training/data/
RUN pip install --no-deps --editable .
USER nlft
HEALTHCHECK --interval=30s --timeout=15s --start-period=30s \
    CMD celery -A worker.celery_app inspect ping --timeout 10 --destination "celery@$(hostname)"
STOPSIGNAL SIGTERM
CMD ["python", "-m", "worker"]
