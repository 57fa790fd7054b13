# Source this file after your exports: `source setup.sh`, in bash or zsh.
#
#   export EMBEDDING_MODEL_NAME=CLIP/clip-vit-b-32   # default: the shipped Builtin/mini
#   export EMBEDDING_DEVICE=GPU                      # default: CPU
#   source setup.sh && docker compose -f docker/compose.yaml up
#
# It checks the variables that you exported, sets the others to their defaults, creates the Docker
# volumes if Docker is running, and prints the result. If a value is invalid, it reports the variable
# and exports nothing. docs/configuration.md lists every setting; the settings that this script does
# not set keep the service's own defaults.

# tests/deploy/test_setup.py compares this list with the catalog.
_mmes_models="
Builtin/mini
CLIP/clip-vit-b-32 CLIP/clip-vit-b-16 CLIP/clip-vit-l-14 CLIP/clip-vit-h-14
CN-CLIP/cn-clip-vit-b-16 CN-CLIP/cn-clip-vit-l-14 CN-CLIP/cn-clip-vit-h-14
MobileCLIP/mobileclip_s0 MobileCLIP/mobileclip_s1 MobileCLIP/mobileclip_s2
MobileCLIP/mobileclip_b MobileCLIP/mobileclip_blt
SigLIP/siglip2-vit-b-16 SigLIP/siglip2-vit-l-16 SigLIP/siglip2-so400m-patch16-384
Blip2/blip2_transformers Blip2/blip2
QwenText/qwen3-embedding-0.6b QwenText/qwen3-embedding-4b QwenText/qwen3-embedding-8b
"

_mmes_reject() { # name, value, allowed values
  printf "setup.sh: %s='%s' is not allowed; allowed: %s\n" "$1" "$2" "$3" >&2
  _mmes_invalid=1
}

_mmes_matches() { # value, extended regular expression
  printf '%s\n' "$1" | grep -Eq "$2"
}

_mmes_setup() {
  _mmes_invalid=0
  _mmes_model=${EMBEDDING_MODEL_NAME:-Builtin/mini}
  _mmes_device=${EMBEDDING_DEVICE:-CPU}
  _mmes_upper=$(printf '%s' "$_mmes_device" | tr '[:lower:]' '[:upper:]')
  _mmes_port=${EMBEDDING_SERVER_PORT:-9777}
  _mmes_use=$(printf '%s' "${EMBEDDING_USE_OV:-true}" | tr '[:upper:]' '[:lower:]')
  _mmes_precision=${EMBEDDING_PRECISION:-auto}

  # Batch size and performance hint suit the device.
  case "$_mmes_upper" in
    *GPU*) _mmes_batch=32 _mmes_mode=THROUGHPUT ;;
    *NPU*) _mmes_batch=16 _mmes_mode=THROUGHPUT ;;
    *) _mmes_batch=16 _mmes_mode=auto ;;
  esac
  _mmes_batch=${INFER_BATCH_SIZE:-$_mmes_batch}
  _mmes_mode=${OV_PERFORMANCE_MODE:-$_mmes_mode}

  case "$_mmes_model" in
    hf:?*/?* | */*/* | ./* | /* | '~'*) ;;
    *)
      # With or without the family; case does not matter.
      printf '%s' "$_mmes_models" | tr ' ' '\n' | sed -n 'p; s|.*/||p' | grep -Fiqx -e "$_mmes_model" ||
        _mmes_reject EMBEDDING_MODEL_NAME "$_mmes_model" \
          "hf:org/name, a folder, or one of:$(printf '%s' "$_mmes_models" | tr '\n' ' ')"
      ;;
  esac
  _mmes_matches "$_mmes_upper" '^(CPU|GPU(\.[0-9]+)*|NPU|CUDA(:[0-9]+)?|AUTO|(AUTO|MULTI|HETERO|BATCH):.+)$' ||
    _mmes_reject EMBEDDING_DEVICE "$_mmes_device" "CPU, GPU, GPU.1, NPU, AUTO, AUTO:…, MULTI:…, HETERO:…, BATCH:…, cuda, cuda:0"
  _mmes_matches "$_mmes_use" '^(true|false|1|0|yes|no|on|off)$' ||
    _mmes_reject EMBEDDING_USE_OV "$_mmes_use" "true, false"
  { _mmes_matches "$_mmes_port" '^[0-9]{1,5}$' && [ "$_mmes_port" -le 65535 ]; } ||
    _mmes_reject EMBEDDING_SERVER_PORT "$_mmes_port" "a whole number, 0 to 65535"
  _mmes_matches "$_mmes_batch" '^[1-9][0-9]{0,3}$' ||
    _mmes_reject INFER_BATCH_SIZE "$_mmes_batch" "a whole number, 1 to 1024"
  _mmes_matches "$_mmes_mode" '^(auto|LATENCY|THROUGHPUT|CUMULATIVE_THROUGHPUT)$' ||
    _mmes_reject OV_PERFORMANCE_MODE "$_mmes_mode" "auto, LATENCY, THROUGHPUT, CUMULATIVE_THROUGHPUT"
  _mmes_matches "$_mmes_precision" '^(auto|f32|bf16|f16|int8-weights|int4-weights|int8)$' ||
    _mmes_reject EMBEDDING_PRECISION "$_mmes_precision" "auto, f32, bf16, f16, int8-weights, int4-weights, int8"
  [ "$_mmes_invalid" = 0 ] || return 1

  export EMBEDDING_MODEL_NAME="$_mmes_model"
  export EMBEDDING_DEVICE="$_mmes_device"
  export EMBEDDING_USE_OV="$_mmes_use"
  export EMBEDDING_PRECISION="$_mmes_precision"
  export EMBEDDING_SERVER_PORT="$_mmes_port"
  export INFER_BATCH_SIZE="$_mmes_batch"
  export OV_PERFORMANCE_MODE="$_mmes_mode"
  export DEFAULT_START_OFFSET_SEC="${DEFAULT_START_OFFSET_SEC:-0}"
  export DEFAULT_CLIP_DURATION="${DEFAULT_CLIP_DURATION:--1}"
  export DEFAULT_NUM_FRAMES="${DEFAULT_NUM_FRAMES:-64}"
  export APP_NAME="${APP_NAME:-multimodal-embedding-serving}"
  export APP_DISPLAY_NAME="${APP_DISPLAY_NAME:-Multimodal Embedding Serving}"

  for _mmes_name in EMBEDDING_MODEL_NAME EMBEDDING_DEVICE EMBEDDING_USE_OV EMBEDDING_PRECISION \
    EMBEDDING_SERVER_PORT INFER_BATCH_SIZE OV_PERFORMANCE_MODE DEFAULT_START_OFFSET_SEC \
    DEFAULT_CLIP_DURATION DEFAULT_NUM_FRAMES APP_NAME APP_DISPLAY_NAME; do
    eval "printf '%s=%s\n' \"\$_mmes_name\" \"\$$_mmes_name\""
  done
  _mmes_volumes
}

_mmes_volumes() { # the volumes that compose.yaml mounts; skipped if Docker is not running
  if ! command -v docker >/dev/null 2>&1 || ! docker info >/dev/null 2>&1; then
    echo "setup.sh: Docker is not running, so its volumes were not created"
    return 0
  fi
  for _mmes_name in ov-models data-prep; do
    docker volume inspect "$_mmes_name" >/dev/null 2>&1 ||
      docker volume create "$_mmes_name" >/dev/null || return 1
  done
}

_mmes_setup
_mmes_status=$?
unset -f _mmes_setup _mmes_reject _mmes_matches _mmes_volumes
unset _mmes_models _mmes_model _mmes_device _mmes_upper _mmes_port _mmes_use _mmes_precision \
  _mmes_batch _mmes_mode _mmes_name _mmes_invalid
# The status of a sourced file is that of its last command, and no variable may be left behind.
if [ "$_mmes_status" = 0 ]; then unset _mmes_status; else unset _mmes_status && false; fi
