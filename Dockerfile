# The service, on the CPU. Build: docker build -t linguarec .
# Run, with the runs in ./runs and the state in a volume:
#   docker run -p 127.0.0.1:8000:8000 -v ./runs:/runs:ro -v state:/state -v ./token:/run/token:ro linguarec
FROM python:3.12-slim-bookworm AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/linguarec
ENV PATH=/opt/linguarec/bin:$PATH
# An index with the builds of torch without CUDA makes the image some gigabytes smaller: --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install ".[serve]"

FROM python:3.12-slim-bookworm

LABEL org.opencontainers.image.title="linguarec" org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --home-dir /state linguarec \
    && install -d -o linguarec -g linguarec /state /runs
COPY --from=build /opt/linguarec /opt/linguarec
# One thread a product: requests are batched, and threads of OpenMP that wait for each other cost more than they give.
ENV PATH=/opt/linguarec/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
USER linguarec
WORKDIR /state
VOLUME /state
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["linguarec", "serve"]
CMD ["/runs/current", "--host", "0.0.0.0", "--state", "/state/state.sqlite", "--token-file", "/run/token"]
