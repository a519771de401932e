# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_ferrun_global_optspecs
    string join \n v/version root= log= log-format= report= debug systemd-cgroup cgroup-manager= rootless= h/help
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

complete -c ferrun -n "__fish_ferrun_needs_command" -l root -d 'Directory for container state [default: /run/ferrun, or ferrun in $XDG_RUNTIME_DIR without root]' -r -F
complete -c ferrun -n "__fish_ferrun_needs_command" -l log -d 'Append warnings and errors to this file' -r -F
complete -c ferrun -n "__fish_ferrun_needs_command" -l log-format -d 'text (the default) or json' -r -f -a "text\t''
json\t''"
complete -c ferrun -n "__fish_ferrun_needs_command" -l report -d 'Report to the program that embeds ferrun, over this descriptor' -r
complete -c ferrun -n "__fish_ferrun_needs_command" -l cgroup-manager -d 'How cgroups are managed: cgroupfs (the default), systemd, or disabled (no cgroups)' -r -f -a "cgroupfs\t''
systemd\t''
disabled\t''"
complete -c ferrun -n "__fish_ferrun_needs_command" -l rootless -d 'Run without cgroups if they are not accessible: true, false or auto (the default)' -r -f -a "true\t''
false\t''
auto\t''"
complete -c ferrun -n "__fish_ferrun_needs_command" -s v -l version -d 'Print the version'
complete -c ferrun -n "__fish_ferrun_needs_command" -l debug -d 'Also log each step and decision, to stderr if --log is not given'
complete -c ferrun -n "__fish_ferrun_needs_command" -l systemd-cgroup -d 'Let systemd make the cgroups of containers (cgroup v2)'
complete -c ferrun -n "__fish_ferrun_needs_command" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "checkpoint" -d 'Write an image of a container\'s processes, by CRIU'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "create" -d 'Create a container'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "delete" -d 'Delete a container and everything that create made'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "events" -d 'Print resource usage and out-of-memory events, as JSON'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "exec" -d 'Run another process in a container'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "features" -d 'Print the features of this runtime, as JSON'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "kill" -d 'Send a signal to a container\'s init process'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "list" -d 'List containers'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "pause" -d 'Freeze every process of a container'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "ps" -d 'List the processes of a container'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "restore" -d 'Create a container from an image of its processes, by CRIU'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "resume" -d 'Let the processes of a paused container run'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "run" -d 'Create and start a container'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "spec" -d 'Write a config.json to start from'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "start" -d 'Run the program of a created container'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "state" -d 'Print the state of a container, as JSON'
complete -c ferrun -n "__fish_ferrun_needs_command" -f -a "update" -d 'Change the limits of a container'
complete -c ferrun -n "__fish_ferrun_using_subcommand checkpoint" -l image-path -d 'Directory of the image [default: checkpoint]' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand checkpoint" -l work-path -d 'Directory of CRIU\'s log [default: that of the image]' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand checkpoint" -l manage-cgroups-mode -d 'Which files of cgroups are restored [default: soft, or ignore without own ones]' -r -f -a "soft\t''
full\t''
strict\t''
ignore\t''"
complete -c ferrun -n "__fish_ferrun_using_subcommand checkpoint" -l empty-ns -d 'Leave out a namespace of this type, network; it always is' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand checkpoint" -l parent-path -d 'The image before, from the image\'s directory: only changes are written' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand checkpoint" -l page-server -d 'Send memory to the page server at ADDRESS:PORT' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand checkpoint" -l status-fd -d 'Write a zero byte to this descriptor when --lazy-pages has pages to give' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand checkpoint" -l tcp-established -d 'Take established TCP connections along'
complete -c ferrun -n "__fish_ferrun_using_subcommand checkpoint" -l ext-unix-sk -d 'Allow Unix sockets that lead out of the container'
complete -c ferrun -n "__fish_ferrun_using_subcommand checkpoint" -l shell-job -d 'Allow the terminal and the session to be the caller\'s'
complete -c ferrun -n "__fish_ferrun_using_subcommand checkpoint" -l file-locks -d 'Take locks of files along'
complete -c ferrun -n "__fish_ferrun_using_subcommand checkpoint" -l lazy-pages -d 'Bring memory when it is touched'
complete -c ferrun -n "__fish_ferrun_using_subcommand checkpoint" -l auto-dedup -d 'Free in images what later ones hold'
complete -c ferrun -n "__fish_ferrun_using_subcommand checkpoint" -l leave-running -d 'Do not delete the container, let it run on'
complete -c ferrun -n "__fish_ferrun_using_subcommand checkpoint" -l pre-dump -d 'Write memory alone, in advance, and let the container run on'
complete -c ferrun -n "__fish_ferrun_using_subcommand checkpoint" -l tcp-skip-in-flight -d 'Leave out TCP connections that are being made'
complete -c ferrun -n "__fish_ferrun_using_subcommand checkpoint" -l link-remap -d 'Give files that were deleted a name for the time of the image'
complete -c ferrun -n "__fish_ferrun_using_subcommand checkpoint" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand create" -s b -l bundle -d 'Directory of the bundle' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand create" -s f -l config -d 'Use this file instead of the bundle\'s config.json' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand create" -l console-socket -d 'Send the terminal\'s master side to this Unix socket' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand create" -l pidfd-socket -d 'Send a pidfd of the init process to this Unix socket' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand create" -l pid-file -d 'Write the pid of the init process to this file' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand create" -l preserve-fds -d 'Also pass this many descriptors after stdin, stdout and stderr' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand create" -l no-pivot -d 'Do not use pivot_root(2), for a root file system in an initramfs'
complete -c ferrun -n "__fish_ferrun_using_subcommand create" -l no-new-keyring -d 'Keep the caller\'s session keyring'
complete -c ferrun -n "__fish_ferrun_using_subcommand create" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand delete" -s f -l force -d 'Kill the container first if it runs; no error if it does not exist'
complete -c ferrun -n "__fish_ferrun_using_subcommand delete" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand events" -l interval -d 'Time between two prints, as in 500ms or 1m30s [default: 5s]' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand events" -l stats -d 'Print resource usage once, and exit'
complete -c ferrun -n "__fish_ferrun_using_subcommand events" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -l console-socket -d 'Send the terminal\'s master side to this Unix socket' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -l pidfd-socket -d 'Send a pidfd of the process to this Unix socket' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -l cwd -d 'Working directory [default: the container\'s]' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -s e -l env -d 'Set a variable, NAME=VALUE; may be repeated' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -s u -l user -d 'User and group as numbers, UID[:GID]' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -s g -l additional-gids -d 'Additional group, by number; may be repeated' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -s p -l process -d 'Read the process from this JSON file' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -l pid-file -d 'Write the pid of the process to this file' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -l process-label -d 'SELinux label of the process' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -l apparmor -d 'AppArmor profile of the process' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -s c -l cap -d 'Add a capability, as in CAP_NET_ADMIN; may be repeated' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -l preserve-fds -d 'Also pass this many descriptors after stdin, stdout and stderr' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -l cgroup -d 'Run in a cgroup below the container\'s, [CONTROLLER[,...]:]PATH' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -s t -l tty -d 'Allocate a terminal'
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -s d -l detach -d 'Return as soon as the process runs'
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -l no-new-privs -d 'Keep the process from gaining privileges (no_new_privs)'
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -l ignore-paused -d 'If the container is paused, wait up to 10 s until it is resumed'
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand features" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand kill" -s a -l all -d 'Send it to every process of the container'
complete -c ferrun -n "__fish_ferrun_using_subcommand kill" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand list" -s f -l format -d 'table (the default) or json' -r -f -a "table\t''
json\t''"
complete -c ferrun -n "__fish_ferrun_using_subcommand list" -s q -l quiet -d 'Print only IDs'
complete -c ferrun -n "__fish_ferrun_using_subcommand list" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand pause" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand ps" -s f -l format -d 'table (the default) or json' -r -f -a "table\t''
json\t''"
complete -c ferrun -n "__fish_ferrun_using_subcommand ps" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand restore" -l image-path -d 'Directory of the image [default: checkpoint]' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand restore" -l work-path -d 'Directory of CRIU\'s log [default: that of the image]' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand restore" -l manage-cgroups-mode -d 'Which files of cgroups are restored [default: soft, or ignore without own ones]' -r -f -a "soft\t''
full\t''
strict\t''
ignore\t''"
complete -c ferrun -n "__fish_ferrun_using_subcommand restore" -l empty-ns -d 'Leave out a namespace of this type, network; it always is' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand restore" -s b -l bundle -d 'Directory of the bundle' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand restore" -l console-socket -d 'Send the terminal\'s master side to this Unix socket' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand restore" -l pid-file -d 'Write the pid of the init process to this file' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand restore" -l lsm-profile -d 'Restore under another profile, apparmor:NAME or selinux:LABEL' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand restore" -l lsm-mount-context -d 'Restore mounts under another SELinux label' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand restore" -l tcp-established -d 'Take established TCP connections along'
complete -c ferrun -n "__fish_ferrun_using_subcommand restore" -l ext-unix-sk -d 'Allow Unix sockets that lead out of the container'
complete -c ferrun -n "__fish_ferrun_using_subcommand restore" -l shell-job -d 'Allow the terminal and the session to be the caller\'s'
complete -c ferrun -n "__fish_ferrun_using_subcommand restore" -l file-locks -d 'Take locks of files along'
complete -c ferrun -n "__fish_ferrun_using_subcommand restore" -l lazy-pages -d 'Bring memory when it is touched'
complete -c ferrun -n "__fish_ferrun_using_subcommand restore" -l auto-dedup -d 'Free in images what later ones hold'
complete -c ferrun -n "__fish_ferrun_using_subcommand restore" -s d -l detach -d 'Return as soon as the container runs'
complete -c ferrun -n "__fish_ferrun_using_subcommand restore" -l no-subreaper -d 'Do not reap what the container leaves behind'
complete -c ferrun -n "__fish_ferrun_using_subcommand restore" -l no-pivot -d 'Does nothing: how the root is entered is CRIU\'s'
complete -c ferrun -n "__fish_ferrun_using_subcommand restore" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand resume" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -s b -l bundle -d 'Directory of the bundle' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -s f -l config -d 'Use this file instead of the bundle\'s config.json' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -l console-socket -d 'Send the terminal\'s master side to this Unix socket' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -l pidfd-socket -d 'Send a pidfd of the init process to this Unix socket' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -l pid-file -d 'Write the pid of the init process to this file' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -l preserve-fds -d 'Also pass this many descriptors after stdin, stdout and stderr' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -l no-pivot -d 'Do not use pivot_root(2), for a root file system in an initramfs'
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -l no-new-keyring -d 'Keep the caller\'s session keyring'
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -s d -l detach -d 'Return as soon as the program runs'
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -l keep -d 'Do not delete the container when it has ended'
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -l no-subreaper -d 'Do not reap what the container leaves behind'
complete -c ferrun -n "__fish_ferrun_using_subcommand run" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand spec" -s b -l bundle -d 'Directory to write config.json to' -r -F
complete -c ferrun -n "__fish_ferrun_using_subcommand spec" -l rootless -d 'With a user namespace, for use without root'
complete -c ferrun -n "__fish_ferrun_using_subcommand spec" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand start" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand state" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -s r -l resources -d 'Read limits from this JSON file (an object like linux.resources; -: stdin)' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l blkio-weight -d 'Weight of block I/O, 10 to 1000' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l cpu-burst -d 'CPU time that may be saved up and used beyond the quota, in microseconds' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l cpu-idle -d '1: run only while no other cgroup wants the CPU; 0: as usual' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l cpu-period -d 'Period of the CPU quota, in microseconds' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l cpu-quota -d 'CPU time per period, in microseconds; -1: no limit' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l cpu-rt-period -d 'Real-time period, in microseconds (cgroup v1)' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l cpu-rt-runtime -d 'Real-time CPU time per period, in microseconds (cgroup v1)' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l cpu-share -d 'Relative weight for CPU time, 2 to 262144' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l kernel-memory -d 'Kernel memory limit, in bytes (obsolete)' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l kernel-memory-tcp -d 'TCP buffer limit, in bytes (cgroup v1)' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l memory -d 'Memory limit, in bytes or with a suffix k, m, g or t, as in 1.5g; -1: no limit' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l memory-reservation -d 'Memory that is kept for the container under pressure, as for --memory' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l memory-swap -d 'Limit for memory and swap together, as for --memory; -1: no limit' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l pids-limit -d 'Most processes and threads; -1: no limit' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l cpuset-cpus -d 'CPUs to run on, as in 0-3,7' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l cpuset-mems -d 'Memory nodes to use, as in 0,1' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l l3-cache-schema -d 'L3 cache of the class of service, as in L3:0=ff;1=f0 (Intel RDT)' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -l mem-bw-schema -d 'Memory bandwidth of the class of service, as in MB:0=50;1=70 (Intel RDT)' -r
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -s h -l help -d 'Print help'
complete -c ferrun -n "__fish_ferrun_using_subcommand checkpoint" -f -a '(ferrun list --quiet 2>/dev/null)'
complete -c ferrun -n "__fish_ferrun_using_subcommand delete" -f -a '(ferrun list --quiet 2>/dev/null)'
complete -c ferrun -n "__fish_ferrun_using_subcommand events" -f -a '(ferrun list --quiet 2>/dev/null)'
complete -c ferrun -n "__fish_ferrun_using_subcommand exec" -f -a '(ferrun list --quiet 2>/dev/null)'
complete -c ferrun -n "__fish_ferrun_using_subcommand kill" -f -a '(ferrun list --quiet 2>/dev/null)'
complete -c ferrun -n "__fish_ferrun_using_subcommand pause" -f -a '(ferrun list --quiet 2>/dev/null)'
complete -c ferrun -n "__fish_ferrun_using_subcommand ps" -f -a '(ferrun list --quiet 2>/dev/null)'
complete -c ferrun -n "__fish_ferrun_using_subcommand resume" -f -a '(ferrun list --quiet 2>/dev/null)'
complete -c ferrun -n "__fish_ferrun_using_subcommand start" -f -a '(ferrun list --quiet 2>/dev/null)'
complete -c ferrun -n "__fish_ferrun_using_subcommand state" -f -a '(ferrun list --quiet 2>/dev/null)'
complete -c ferrun -n "__fish_ferrun_using_subcommand update" -f -a '(ferrun list --quiet 2>/dev/null)'
