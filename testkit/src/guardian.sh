# Leads the process group of one child. `$1`: tenths of a second between TERM and KILL.
# Each line of standard input is a command: a word and a pid. The end of the input means that the
# parent has exited.
tenths=$1
child=
trap '' HUP INT TERM
while read -r command pid; do
    case $command in
    guard) child=$pid ;;
    end) kill -s KILL -- -$$ ;;
    *) kill -s "$command" "$pid" ;;
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
