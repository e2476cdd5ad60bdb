#!/bin/bash
# A systemd of its own, as process 1 of its own namespaces: a copy of this system on
# which nothing runs but what a test starts. What it writes is gone when it ends. It has
# the network of this system. Needs root, systemd and a cgroup2 file system.
#
#	machine.sh start directory   runs it, with an empty directory
#	machine.sh clean directory   when it has ended
set -eu
directory=$2
cgroups=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)/machine$(echo "$directory" | tr / -)
case $1 in
start)
	mkdir "$cgroups"
	echo $$ >"$cgroups/cgroup.procs"
	exec unshare --pid --fork --kill-child --mount --uts --ipc --cgroup "$0" inside "$directory"
	;;
clean)
	exec find "$cgroups" -depth -type d -exec rmdir {} ';'
	;;
esac

mount --make-rprivate /
mount -t tmpfs tmpfs "$directory"
cd "$directory"
mkdir changes work root
mount -t overlay overlay -o "lowerdir=/,upperdir=$PWD/changes,workdir=$PWD/work" root
cd root
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
	touch dev/$device
	mount --bind /dev/$device dev/$device
done
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs dev/shm
mount -t mqueue mqueue dev/mqueue

# Nothing starts by itself, and nothing looks for devices.
rm -rf etc/systemd/system
mkdir -p etc/systemd/system .old
printf '[Unit]\nDescription=nothing\n' >etc/systemd/system/nothing.target
for unit in systemd-udevd.service systemd-udev-trigger.service systemd-udevd-kernel.socket systemd-udevd-control.socket \
	systemd-networkd.service systemd-resolved.service systemd-sysctl.service systemd-modules-load.service \
	systemd-binfmt.service systemd-remount-fs.service systemd-timesyncd.service apparmor.service; do
	ln -s /dev/null etc/systemd/system/$unit
done
: >etc/fstab
echo 0123456789abcdef0123456789abcdef >etc/machine-id
pivot_root . .old
cd /
umount -l /.old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=nothing.target --show-status=no
