# Runs as the only program of the outer machine. What it says between `<<NAME` and `>>NAME STATUS` belongs together.
part() {
    name=$1
    shift
    echo
    echo "<<$name"
    timeout 400 "$@" 2>&1
    echo
    echo ">>$name $?"
}

part kvm sh -c 'uname -r; ls /dev/kvm; grep -m1 -o -w svm /proc/cpuinfo'
part auto "$SKERRY" do --engine microvm --snapshot never --accel auto -- sh -c 'uname -r; id'
part trial cat "$XDG_CACHE_HOME/skerry/machines/trial.json"
part make "$SKERRY" do --engine microvm --accel kvm -- sh -c 'uname -r; id'
part again "$SKERRY" do --engine microvm --accel kvm --min-isolation 4 -- sh -c 'uname -r; id'
part spt "$TENDER" "$SKERRY_TEST_IMAGES/tasks" hello nested
part image "$SKERRY" do --engine unikernel --memory 8m -- "$SKERRY_TEST_IMAGES/tasks" hello nested
part machine "$SKERRY" do --engine unikernel --memory 8m -- "$SKERRY_TEST_IMAGES/hvt-tasks" hello nested
pytest="$PYTHON -m pytest -q --color=no -p no:cacheprovider -p no:randomly --timeout 300 --basetemp $TMPDIR/pytest"
# Sandboxes of it have directories there, where what is tested may lie, too.
mkdir /run/upper /run/work
mount -t overlay -o lowerdir=/tmp,upperdir=/run/upper,workdir=/run/work overlay /tmp
part rules env TMPDIR=/tmp $pytest "$TESTS/engines/test_rules.py" -k "held_otherwise and root-2"
part hvt $pytest "$TESTS/engines/test_hvt.py"
