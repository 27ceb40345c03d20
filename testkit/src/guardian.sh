# Leads a process group in which the child runs beside it. `$1`: tenths of a second between TERM and KILL.
# Each line of standard input is an order: a word and a pid. Its end means that whoever gave orders is gone.
tenths=$1
child=
trap '' HUP INT TERM
while read -r order pid; do
    case $order in
    guard) child=$pid ;;
    end) kill -s KILL -- -$$ ;;
    *) kill -s "$order" "$pid" ;;
    esac
done
if [ -n "$child" ] && [ "$tenths" -gt 0 ]; then
    kill -s TERM "$child"
    kill -s CONT "$child"
    while [ "$tenths" -gt 0 ] && kill -0 "$child"; do
        sleep 0.1
        tenths=$((tenths - 1))
    done
fi
kill -s KILL -- -$$
