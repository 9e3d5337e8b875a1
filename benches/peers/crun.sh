#!/bin/sh
# crun.sh COMMAND...: a container of crun's with the host's files, read-only, and namespaces of its own.
set -e
bundle=$(mktemp -d /tmp/skerry-crun.XXXXXX)
mkdir "$bundle/root"
# No tree is taken away: should the mount below ever be here, it would be the host's.
trap 'rm "$bundle/config.json"; rmdir "$bundle/root" "$bundle"' EXIT
arguments=
for word; do
    escaped=$(printf %s "$word" | sed 's/\\/\\\\/g; s/"/\\"/g')
    arguments="$arguments${arguments:+,}\"$escaped\""
done
mount() { printf '{"destination":"%s","type":"%s","source":"%s","options":[%s]}' "$1" "$2" "$2" "$3"; }
cat > "$bundle/config.json" <<EOF
{"ociVersion":"1.0.2","process":{"terminal":false,"user":{"uid":0,"gid":0},"args":[$arguments],"env":["PATH=$PATH"],"cwd":"/","noNewPrivileges":true},
"root":{"path":"root","readonly":true},"hostname":"crun",
"mounts":[$(mount /proc proc '"nosuid"'),$(mount /dev tmpfs '"nosuid","mode=755","size=65536k"'),$(mount /tmp tmpfs '"nosuid","mode=1777"'),$(mount /dev/shm tmpfs '"nosuid"')],
"linux":{"namespaces":[{"type":"pid"},{"type":"network"},{"type":"ipc"},{"type":"uts"},{"type":"mount"}]}}
EOF
unshare -m sh -c 'umount /sys/fs/cgroup/unified 2> /dev/null; cd "$1"; mount --bind / root; mount --make-private root; exec crun run "bench-$$"' sh "$bundle"
