#!/bin/bash
# room.sh FOLDER COMMAND...: runs the command as the first process of a copy of this machine.
#
# It has the same files, and writes over them into memory; it has processes, mounts, control groups
# and a loopback interface of its own. All of that goes with it. Wants to be root, in a mount
# namespace of its own; writes which process of this machine the first one is, and only that.
set -euo pipefail

# The mounts of this machine's control groups: device, target, type, options.
groups() { grep -E '^\S+ \S+ cgroup2? ' <<<"$mounts"; }

layer() {
    mkdir -p "$folder/over/$1" "$folder/work/$1"
    mount -t overlay \
        -o "lowerdir=/$1,upperdir=$folder/over/$1,workdir=$folder/work/$1" room "$folder/root/$1"
}

enter_group() {
    mkdir "$1"
    if [ -e "$1/cpuset.mems" ] && [ -e "$1/cgroup.clone_children" ]; then
        for each in cpuset.cpus cpuset.mems; do cat "$1/../$each" >"$1/$each"; done
    fi
    echo 0 >"$1/cgroup.procs"
}

first_process() {
    read -r pid _ </proc/self/stat
    cd "$folder/root"
    mount -t proc room proc
    mount -t sysfs room sys
    mount -t tmpfs room sys/fs/cgroup
    while read -r _ target type options _; do
        mkdir -p ".$target"
        mount -t "$type" -o "$options" room ".$target"
    done < <(groups)
    mount -t tmpfs room run
    mount -t tmpfs room dev/shm
    mount -t devpts -o newinstance,ptmxmode=666 room dev/pts
    ip link set lo up
    pivot_root . mnt
    umount -l mnt
    cd /
    echo "$pid"
    exec "$@" >&2
}

if [ "$1" = --first ]; then
    folder=$2 mounts=$3
    first_process "${@:4}"
fi

folder=$1
mounts=$(cat /proc/self/mounts)
mount -t tmpfs room "$folder"
mkdir "$folder/root"
layer ""
layer dev
(
    while read -r _ target _; do enter_group "$target/room-$$"; done < <(groups)
    exec unshare --mount --cgroup --pid --net --ipc --uts --fork --kill-child \
        bash "$0" --first "$folder" "$mounts" "${@:2}"
) || true
# Control groups outlive their namespace.
while read -r _ target _; do find "$target/room-$$" -depth -type d -exec rmdir {} +; done < <(groups)
