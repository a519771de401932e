# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_image_tool_global_optspecs
    string join \n h/help V/version
end

function __fish_image_tool_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_image_tool_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_image_tool_using_subcommand
    set -l cmd (__fish_image_tool_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c image-tool -n "__fish_image_tool_needs_command" -s h -l help -d 'Print help'
complete -c image-tool -n "__fish_image_tool_needs_command" -s V -l version -d 'Print version'
complete -c image-tool -n "__fish_image_tool_needs_command" -f -a "pull" -d 'Download, verify and unpack an image into BUNDLE'
complete -c image-tool -n "__fish_image_tool_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c image-tool -n "__fish_image_tool_using_subcommand pull" -l platform -d 'Take the image for this platform instead of the machine\'s own' -r
complete -c image-tool -n "__fish_image_tool_using_subcommand pull" -l creds -d 'Log in to the registry; without :PASS, or with -, read from standard input' -r
complete -c image-tool -n "__fish_image_tool_using_subcommand pull" -l plain-http -d 'Speak HTTP without TLS; by default with this machine only' -r -f -a "true\t''
false\t''"
complete -c image-tool -n "__fish_image_tool_using_subcommand pull" -l caps -d 'The capabilities of the process' -r -f -a "docker\t'Docker\'s 14; set-user-id programs work'
minimal\t'AUDIT_WRITE, KILL and NET_BIND_SERVICE, and no new privileges'"
complete -c image-tool -n "__fish_image_tool_using_subcommand pull" -l seccomp -d 'The seccomp filter of the process: docker (the default profile of Docker), none, or a file with a profile as Docker and Podman take them' -r
complete -c image-tool -n "__fish_image_tool_using_subcommand pull" -l max-unpacked -d 'Refuse images that unpack to more than this' -r
complete -c image-tool -n "__fish_image_tool_using_subcommand pull" -l tty -d 'Give the process a terminal (process.terminal, TERM)'
complete -c image-tool -n "__fish_image_tool_using_subcommand pull" -l json -d 'Print events as JSON, one a line; the last is the result'
complete -c image-tool -n "__fish_image_tool_using_subcommand pull" -s q -l quiet -d 'Print errors and warnings only'
complete -c image-tool -n "__fish_image_tool_using_subcommand pull" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c image-tool -n "__fish_image_tool_using_subcommand help; and not __fish_seen_subcommand_from pull help" -f -a "pull" -d 'Download, verify and unpack an image into BUNDLE'
complete -c image-tool -n "__fish_image_tool_using_subcommand help; and not __fish_seen_subcommand_from pull help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
