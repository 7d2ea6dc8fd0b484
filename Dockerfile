# Three images of one code base, each with no more than its process needs:
#   docker build --target api    control plane, migrations       no torch, no numpy, no worker code
#   docker build --target serve  data plane                      ONNX Runtime, no torch
#   docker build --target worker supervisor, run child, beat     torch with CUDA (runs on CPU too)

FROM python:3.12-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH
RUN python -m venv /opt/venv \
 && useradd --uid 10001 --create-home --shell /usr/sbin/nologin retort \
 && install -d -o retort -g retort /var/lib/retort /var/lib/retort/blobs /var/lib/retort/models
WORKDIR /srv/retort
COPY pyproject.toml constraints.txt README.md LICENSE ./

# The dependencies are their own layer: a change of the code does not install them again.
FROM base AS api
RUN mkdir app && touch app/__init__.py && pip install -c constraints.txt . && pip uninstall -y retort && rm -r app build *.egg-info
COPY app/ app/
COPY migrations/ migrations/
RUN rm -r app/serving && pip install --no-deps .
USER retort
EXPOSE 8000
CMD ["uvicorn", "app.main:app", "--host", "0.0.0.0", "--port", "8000", "--no-server-header", "--timeout-graceful-shutdown", "20"]

FROM base AS serve
RUN mkdir app && touch app/__init__.py && pip install -c constraints.txt '.[serve]' && pip uninstall -y retort && rm -r app build *.egg-info
COPY app/ app/
COPY migrations/ migrations/
RUN pip install --no-deps .
USER retort
EXPOSE 8001
CMD ["uvicorn", "app.serving.main:app", "--host", "0.0.0.0", "--port", "8001", "--no-server-header", "--timeout-graceful-shutdown", "20"]

FROM base AS worker
RUN mkdir app && touch app/__init__.py && pip install -c constraints.txt '.[worker]' && pip uninstall -y retort && rm -r app build *.egg-info
COPY app/ app/
COPY worker/ worker/
COPY migrations/ migrations/
RUN pip install --no-deps .
USER retort
CMD ["celery", "-A", "worker.celery_app", "worker", "-P", "threads", "-c", "1", "-Q", "gpu,chores", "-l", "info", "--without-gossip", "--without-mingle"]
