"""Exit codes of the run child; the supervisor decides retries by these, never by exception text."""

DONE = 0
BAD_DATA = 65  # the rows are at fault: fail now
BUG = 70  # unexpected exception: retry up to max_attempts
TRY_AGAIN = 75  # asked to stop, or a passing fault: requeue, costs no attempt when asked
OUT_OF_MEMORY = 76  # once more with half the micro-batch
DIVERGED = 77  # NaN or Inf loss: fail now
BAD_SPEC = 78  # the spec cannot be run: fail now
DISK_FULL = 79  # no space: fail now, retryable by the user
CANCELLED = 80  # stopped because it was cancelled
