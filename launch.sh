#!/usr/bin/env bash
# From a fresh checkout to a trained network.
#
#   ./launch.sh                     set up .venv, then train configs/unet_cells.py (no download)
#   ./launch.sh test [...]          set up .venv, then lint and tests; arguments go to pytest
#                                   (--slow: the slow tests, too; -k NAME: some tests)
#   ./launch.sh --config=... [...]  set up .venv, then python -m jaxseg.main with these flags
#   ./launch.sh tpu NAME ZONE -- --config=... [...]
#                                   copy the checkout to ~/jaxseg on every worker of a TPU VM
#                                   (with gcloud), then ./launch.sh with these flags on all
#
# Paths in flags begin at the checkout, from wherever it is started.
# PYTHON=...         the Python to use, 3.11 or newer (default: python3)
# JAXSEG_EXTRAS=...  cuda, cuda12, tpu or nothing (default: what this machine needs)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

die() { echo "launch.sh: $1" >&2; exit "${2:-1}"; }
wrong_usage() { die 'usage: [test [...] | --FLAG... | tpu NAME ZONE -- --FLAG... | --help]' 2; }

find_python() {
  local python
  for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
      die "$python cannot make virtual environments: apt install ${python##*/}-venv"
    echo "$python" && return
  done
  die "${PYTHON:-python3} is missing or older than 3.11; name a newer one: PYTHON=... ./launch.sh"
}

# Prints the extra for this machine's accelerator. nvidia-smi is slow: not again once CUDA is there.
accelerator() {
  local driver cards
  if [[ -n ${JAXSEG_EXTRAS+set} ]]; then
    echo "${JAXSEG_EXTRAS//,/ }"
  elif [[ $(sed -n 2p .venv/stamp 2>/dev/null) == *cuda* ]]; then
    return
  elif driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null) &&
    [[ $driver =~ ^([0-9]+)\. ]]; then
    # What CUDA 13 asks for; compute capability 7.5 is Turing.
    cards=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null) || true
    if ((BASH_REMATCH[1] >= 580)) && ! grep -qE '^([1-6]\.|7\.[0-4])' <<<"$cards"; then
      echo cuda
    else
      echo cuda12
    fi
  elif grep -qs 0x1ae0 /sys/bus/pci/devices/*/vendor &&  # Google: a TPU, or just a network card.
    [[ -n $(compgen -G '/dev/accel[0-9]*' || compgen -G '/dev/vfio/[0-9]*') ]]; then
    echo tpu
  fi
}

# data_extra FLAG...: the extra whose packages the data need, tfds or huggingface, if a flag, the
# config file or one that it imports, or the config of the work directory names such a data set.
data_extra() {
  local i name flag files=()
  for flag; do
    case $flag in
      *oxford_iiit_pet* | --config.data.name=tfds) echo tfds; return ;;
      --config.data.name=huggingface) echo huggingface; return ;;
      --config=*) files+=("${flag#*=}") ;;
      --workdir=*) files+=("${flag#*=}/config.json") ;;
    esac
  done
  files=("${files[@]/#\~\//$HOME/}")
  for ((i = 0; i < ${#files[@]} && i < 50; i++)); do  # 50: should files import each other.
    [[ -f ${files[i]} ]] || continue
    name=$(grep -oEm1 "[:=] *[\"'](oxford_iiit_pet|tfds|huggingface)[\"']" "${files[i]}" || true)
    case $name in
      *huggingface*) echo huggingface; return ;;
      ?*) echo tfds; return ;;
    esac
    while read -r name; do
      files+=("configs/$name.py")
    done < <(sed -nE 's/^ *from configs(\.| import )//p' "${files[i]}" | grep -oE '[A-Za-z0-9_]+')
  done
}

# .venv/stamp, written when an installation is complete: its fingerprint, then its extras.
fingerprint() {
  echo "$PWD, $(.venv/bin/python -V 2>/dev/null), $(cat pyproject.toml constraints.txt | cksum)"
}

is_ready() {  # is_ready EXTRAS
  local extra made_from='' installed=''
  [[ -f .venv/stamp ]] && { read -r made_from; read -r installed; } <.venv/stamp
  [[ $made_from == "$(fingerprint)" ]] || return 1
  for extra in $1; do [[ " $installed " == *" $extra "* ]] || return 1; done
}

install() {  # install EXTRAS
  local extra extras=$1 python
  for extra in $extras; do
    grep -q "^$extra = " pyproject.toml || die "JAXSEG_EXTRAS: pyproject.toml has no extra '$extra'"
  done
  # Extras add up, so that `test` and a plain start, or two machines that share the folder, do not
  # undo each other's work. Only CUDA 12 and 13 exclude each other.
  [[ ! -f .venv/stamp ]] || extras+=" $(sed -n 2p .venv/stamp)"
  [[ " $extras " != *" cuda "* || $extras != *cuda12* ]] || { extras=$1; rm .venv/stamp; }
  extras=$(xargs -n1 <<<"$extras" | sort -u | xargs)
  if [[ ! -f .venv/stamp ]] || ! .venv/bin/python -m pip --version &>/dev/null; then
    python=$(find_python)
    "$python" -m venv --clear .venv
  fi
  rm -f .venv/stamp
  printf 'launch.sh: installing into .venv%s ... ' "${extras:+ (extras: $extras)}" >&2
  .venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt \
    -e ".${extras:+[${extras// /,}]}" &>.venv/pip.log ||
    { echo failed; cat .venv/pip.log; die 'installation failed, see above'; } >&2
  printf '%s\n' "$(fingerprint)" "$extras" >.venv/stamp
  echo "$SECONDS s" >&2
}

set_up() {  # set_up [EXTRA]
  local extras
  extras="${1:-} $(accelerator)"
  is_ready "$extras" && return
  (  # Processes that start together in one folder take turns.
    if command -v flock >/dev/null && ! flock -n 9; then
      echo 'launch.sh: waiting for another process that is setting up .venv' >&2
      flock 9 || true
    fi
    is_ready "$extras" || install "$extras"
  ) 9>.venv.lock
}

run_on_tpu() {  # run_on_tpu NAME ZONE -- FLAG...
  local file
  command -v gcloud >/dev/null || die 'gcloud is missing: install the Google Cloud CLI, gcloud init'
  git rev-parse &>/dev/null || die 'tpu copies the files that git lists: start it in a git checkout'
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
    if [[ -e $file ]]; then printf '%s\0' "$file"; fi  # Not what is deleted but still in the index.
  done | tar --null -T - -czf "$folder/jaxseg.tgz"
  gcloud compute tpus tpu-vm scp "$folder/jaxseg.tgz" "$1:" --zone="$2" --worker=all
  # Old modules go; .venv and runs stay.
  gcloud compute tpus tpu-vm ssh "$1" --zone="$2" --worker=all --command="mkdir -p ~/jaxseg &&\
 cd ~/jaxseg && rm -rf jaxseg configs && tar -xzf ~/jaxseg.tgz &&\
 JAXSEG_EXTRAS=tpu ./launch.sh$(printf ' %q' "${@:4}")"
}

case ${1:-} in
  '')
    set_up
    exec .venv/bin/python -m jaxseg.main --config=configs/unet_cells.py ;;
  test)
    set_up test
    .venv/bin/python -m ruff check .
    .venv/bin/shellcheck launch.sh .ci/run experiments/*/run.sh
    # All of them: by two processes, which share what they compile.
    [[ $* != test && $* != 'test --slow' ]] || set -- "$@" -n 2 --dist worksteal
    exec .venv/bin/python -m pytest "${@:2}" ;;
  tpu)
    [[ ${2:-} != -* && ${4:-} == -- && ${5:-} == --* ]] || wrong_usage
    run_on_tpu "${@:2}" ;;
  -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' launch.sh ;;
  -*)
    set_up "$(data_extra "$@")"
    exec .venv/bin/python -m jaxseg.main "$@" ;;
  *) wrong_usage ;;
esac
