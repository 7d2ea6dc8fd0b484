"""What Prometheus sees of the data plane. One set per process, however many apps it composes."""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Counter("retort_serving_requests_total", "Inference requests", ["operation", "status"])
LATENCY = Histogram("retort_serving_request_seconds", "Time to answer an inference request", ["operation"], buckets=_SECONDS)
QUEUED = Gauge("retort_serving_queue_rows", "Texts accepted and not answered yet")
FORWARD_SECONDS = Histogram("retort_serving_forward_seconds", "Time of one forward, bisected parts included", buckets=_SECONDS)
BATCH_ROWS = Histogram("retort_serving_batch_rows", "Rows of one forward", buckets=(1, 2, 4, 8, 16, 32, 64, 128))
TOKENS = Counter("retort_serving_tokens_total", "Tokens computed, padding not counted")
PADDING = Counter("retort_serving_padding_tokens_total", "Tokens computed for nothing")
TOKEN_BUDGET = Gauge("retort_serving_token_budget", "Rows times longest row that one batch may have", ["model"])
MAX_ROWS = Gauge("retort_serving_max_rows", "Rows that one batch may have", ["model"])
BISECTED = Counter("retort_serving_bisected_batches_total", "Batches halved because their forward failed")
DROPPED = Counter("retort_serving_expired_rows_total", "Rows dropped before the forward: deadline passed")
ABANDONED = Counter("retort_serving_abandoned_rows_total", "Rows dropped before the forward: caller gone")
REFUSED = Counter("retort_serving_refused_requests_total", "Requests refused by admission", ["reason"])
CACHE = Counter("retort_serving_cache_total", "Texts looked up in the answer cache", ["result"])  # local shared joined miss
SAVED_SECONDS = Counter("retort_serving_saved_seconds_total", "Forward time that cached answers saved, estimated")
CACHE_BYTES = Gauge("retort_serving_cache_bytes", "Bytes of the in-process answer cache")
SHARED_UP = Gauge("retort_serving_shared_cache_up", "1 while the shared cache answers")
SHARED_BAD = Counter("retort_serving_shared_cache_bad_total", "Shared values refused: truncated, foreign or damaged")
MODELS = Gauge("retort_serving_models_loaded", "Models in memory")
MODEL_BYTES = Gauge("retort_serving_model_bytes", "Memory charged for loaded models")
LOADS = Counter("retort_serving_model_loads_total", "Model loads", ["result"])
EVICTIONS = Counter("retort_serving_model_evictions_total", "Models unloaded to stay within the budget")
