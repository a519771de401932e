# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_ferrun_global_optspecs
    string join \n v/version root= log= log-format= debug systemd-cgroup cgroup-manager= rootless= h/help
end

function __fish_ferrun_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_ferrun_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_ferrun_using_subcommand
    set -l cmd (__fish_ferrun_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c ferrun -n "__fish_ferrun_needs_command" -l root -d 'Where containers are remembered' -r -F
complete -c ferrun -n "__fish_ferrun_needs_command" -l log -d 'Append warnings and errors to this file' -r -F
complete -c ferrun -n "__fish_ferrun_needs_command" -l log-format -d 'text (the default) or json' -r -f -a "text\t''
json\t''"
complete -c ferrun -n "__fish_ferrun_needs_command" -l cgroup-manager -d 'Who makes cgroups: cgroupfs (the default), systemd, or disabled for none at all' -r -f -a "cgroupfs\t''
systemd\t''
disabled\t''"
complete -c ferrun -n "__fish_ferrun_needs_command" -l rootless -d 'Go on where cgroups cannot be used: true, false or auto' -r -f -a "true\t''
false\t''
auto\t''"
complete -c ferrun -n "__fish_ferrun_needs_command" -s v -l version -d 'Print the version'
complete -c ferrun -n "__fish_ferrun_needs_command" -l debug -d 'Log each step and decision too, to stderr without --log'
complete -c ferrun -n "__fish_ferrun_needs_command" -l systemd-cgroup -d 'Let systemd make the cgroups of containers (cgroup v2)'
complete -c ferrun -n "__fish_ferrun_needs_command" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "create" -d 'Create a container'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "delete" -d 'Delete a container, what it made, and its ID'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "events" -d 'Print what a container uses, as JSON, and when memory runs out'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "exec" -d 'Run another process in a container'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "features" -d 'Print what this runtime can do, as JSON'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "kill" -d 'Send a signal to a container\'s init process'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "list" -d 'List containers'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "pause" -d 'Freeze every process of a container'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "ps" -d 'List the processes of a container'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "resume" -d 'Let the processes of a paused container run'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "run" -d 'Create and start a container'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "spec" -d 'Write a config.json to start from'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "start" -d 'Run the program of a created container'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "state" -d 'Print the state of a container, as JSON'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "update" -d 'Change the limits of a container'
complete -c ferrun -n "__fish_ferrun_using_subcommand create" -s b -l bundle -d 'The directory of the bundle' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand create" -s f -l config -d 'Another file than config.json in the bundle' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand create" -l console-socket -d 'A socket that gets the terminal' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand create" -l pidfd-socket -d 'A socket that gets a pidfd of the init process' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand create" -l pid-file -d 'Write the pid of the init process to this file' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand create" -l preserve-fds -d 'Pass this many descriptors after stdio on' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand create" -l no-pivot -d 'Do not use pivot_root: for a root in an initramfs'
complete -c ferrun -n "__fish_ferrun_using_subcommand create" -l no-new-keyring -d 'Keep the session keyring of the caller'
complete -c ferrun -n "__fish_ferrun_using_subcommand create" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand delete" -s f -l force -d 'Kill it first, and do not mind if it is not there'
complete -c ferrun -n "__fish_ferrun_using_subcommand delete" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand events" -l interval -d 'Time between two prints, 5s where it is not given' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand events" -l stats -d 'Print once'
complete -c ferrun -n "__fish_ferrun_using_subcommand events" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -l console-socket -d 'A socket that gets the terminal' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -l pidfd-socket -d 'A socket that gets a pidfd of the process' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -l cwd -d 'The working directory' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -s e -l env -d 'A variable NAME=VALUE' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -s u -l user -d 'UID[:GID]' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -s g -l additional-gids -d 'A group besides the container\'s' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -s p -l process -d 'A file with the process, as JSON' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -l pid-file -d 'Write the pid of the process to this file' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -l process-label -d 'The SELinux label' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -l apparmor -d 'The AppArmor profile' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -s c -l cap -d 'A capability besides the container\'s' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -l preserve-fds -d 'Pass this many descriptors after stdio on' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -l cgroup -d 'A cgroup below the container\'s, [CONTROLLER[,...]:]PATH' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -s t -l tty -d 'Use a terminal'
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -s d -l detach -d 'Do not wait for the end of the process'
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -l no-new-privs -d 'Set no_new_privs'
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -l ignore-paused -d 'Wait up to 10 s for a paused container to be resumed'
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand features" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand kill" -s a -l all -d 'Send it to every process of the container'
complete -c ferrun -n "__fish_ferrun_using_subcommand kill" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand list" -s f -l format -d 'table (the default) or json' -r -f -a "table\t''
json\t''"
complete -c ferrun -n "__fish_ferrun_using_subcommand list" -s q -l quiet -d 'Print IDs only'
complete -c ferrun -n "__fish_ferrun_using_subcommand list" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand pause" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand ps" -s f -l format -d 'table (the default) or json' -r -f -a "table\t''
json\t''"
complete -c ferrun -n "__fish_ferrun_using_subcommand ps" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand resume" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -s b -l bundle -d 'The directory of the bundle' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -s f -l config -d 'Another file than config.json in the bundle' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -l console-socket -d 'A socket that gets the terminal' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -l pidfd-socket -d 'A socket that gets a pidfd of the init process' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -l pid-file -d 'Write the pid of the init process to this file' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -l preserve-fds -d 'Pass this many descriptors after stdio on' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -l no-pivot -d 'Do not use pivot_root: for a root in an initramfs'
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -l no-new-keyring -d 'Keep the session keyring of the caller'
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -s d -l detach -d 'Do not wait for the end of the container'
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -l keep -d 'Do not delete the container after its end'
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -l no-subreaper -d 'Do not reap what the container leaves behind'
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand spec" -s b -l bundle -d 'Where to write it' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand spec" -l rootless -d 'For an ordinary user'
complete -c ferrun -n "__fish_ferrun_using_subcommand spec" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand start" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand state" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -s r -l resources -d 'A file with linux.resources as JSON, - for stdin' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l blkio-weight -d 'See linux.resources' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l cpu-burst -d 'See linux.resources' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l cpu-idle -d 'See linux.resources' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l cpu-period -d 'See linux.resources' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l cpu-quota -d 'See linux.resources' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l cpu-rt-period -d 'See linux.resources' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l cpu-rt-runtime -d 'See linux.resources' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l cpu-share -d 'See linux.resources' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l kernel-memory -d 'See linux.resources' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l kernel-memory-tcp -d 'See linux.resources' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l memory -d 'See linux.resources' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l memory-reservation -d 'See linux.resources' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l memory-swap -d 'See linux.resources' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l pids-limit -d 'See linux.resources' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l cpuset-cpus -d 'See linux.resources' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l cpuset-mems -d 'See linux.resources' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l l3-cache-schema -d 'See linux.intelRdt' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l mem-bw-schema -d 'See linux.intelRdt' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -s h -l help -d 'Print help'
