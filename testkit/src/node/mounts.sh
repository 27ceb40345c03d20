# Mounts volumes in a mount namespace of its own, and then becomes the program of the container.
# $1: an empty directory. $2: the number of mounts. Then for each mount its volume and its path, and then the program.
set -e
scratch=$1
count=$2
shift 2
mount -t tmpfs tmpfs "$scratch"
while [ "$count" -gt 0 ]; do
    volume=$1
    path=$2
    shift 2
    if ! [ -d "$path" ]; then
        # The image does not have the directory. An overlay has it, so that nothing is left on the machine.
        existing=$(dirname "$path")
        while ! [ -d "$existing" ]; do existing=$(dirname "$existing"); done
        mkdir -p "$scratch/$count/upper" "$scratch/$count/work"
        mount -t overlay overlay -o "lowerdir=$existing,upperdir=$scratch/$count/upper,workdir=$scratch/$count/work" "$existing"
        mkdir -p "$path"
    fi
    mount --bind "$volume" "$path"
    mount -o remount,bind,ro "$path"
    count=$((count - 1))
done
exec "$@"
