# Serves models over HTTP. Build: docker build -t xcrossrec .   Run: see docs/operate.md
FROM python:3.11-slim AS build
# Where pip takes torch from; empty: its default index, which brings CUDA. What torch needs comes with the rest below: an
# index of torch alone may lack the versions of constraints.txt.
ARG TORCH_INDEX=""
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN python -m venv /opt/xcrossrec \
    && /opt/xcrossrec/bin/pip install --no-cache-dir --constraint constraints.txt \
        --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY src ./src
RUN /opt/xcrossrec/bin/pip install --no-cache-dir --constraint constraints.txt ".[serve,postgres]"

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/xcrossrec xcrossrec
COPY --from=build /opt/xcrossrec /opt/xcrossrec
ENV PATH="/opt/xcrossrec/bin:$PATH" \
    PYTHONUNBUFFERED=1 \
    XCROSSREC_HOST=0.0.0.0 \
    XCROSSREC_PORT=8000
USER 10001
WORKDIR /var/lib/xcrossrec
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"XCROSSREC_PORT\"]}/readyz', timeout=4)"]
ENTRYPOINT ["xcrossrec", "serve"]
