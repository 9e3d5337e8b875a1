#!/bin/busybox sh
# The first program of Xen's first domain: starts what serves guests, and `xl` with the files of our driver. What it says between
# `<<NAME` and `>>NAME STATUS` belongs together.
/bin/busybox --install -s /bin
export PATH=/bin:/usr/sbin:/usr/bin LD_LIBRARY_PATH=/lib
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir /dev/pts
mount -t devpts none /dev/pts
for module in /modules/*; do insmod "$module" 2>&1; done
mount -t xenfs none /proc/xen
xen=$(echo /usr/lib/xen-*/bin)

part() {
    name=$1
    shift
    echo
    echo "<<$name"
    timeout 400 "$@" 2>&1
    echo
    echo ">>$name $?"
}

# Waits until a file says so, at most so many seconds.
says() {
    for _ in $(seq "$3"); do
        grep -q "$2" "$1" 2> /dev/null && return
        sleep 1
    done
    echo "$1 never says: $2"
    return 1
}

part serves "$xen/xenstored"
part names "$xen/xen-init-dom0"
"$xen/xenconsoled" --log=guest --log-dir=/var/log/xen
part xen sh -c "uname -r; $xen/xl info; $xen/xl list"
for dry in /machines/*; do
    cd "$dry" && part "dry_$(basename "$dry")" "$xen/xl" create -n machine.cfg
done
for guest in $(cat /start); do
    log=/var/log/xen/guest-$guest.log
    cd "/machines/$guest" && "$xen/xl" create -F -q machine.cfg > "/run/$guest" 2>&1 &
    says "/run/$guest" "Waiting for domain" 60
    part "channel_$guest" greeting /run/channel 60
    part "list_$guest" "$xen/xl" list
    part "console_$guest" cat "$log"
    part "destroy_$guest" "$xen/xl" destroy "$guest"
    part "xl_$guest" cat "/run/$guest"
    part "model_$guest" sh -c "cat /var/log/xen/qemu-dm-$guest*.log"
    part "left_$guest" sh -c "$xen/xl list | grep -c $guest"
done
echo
echo "dom0: that is all"
reboot -f
