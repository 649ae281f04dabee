# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_virt_mdev_global_optspecs
    string join \n h/help V/version
end

function __fish_virt_mdev_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_virt_mdev_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_virt_mdev_using_subcommand
    set -l cmd (__fish_virt_mdev_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c virt-mdev -n "__fish_virt_mdev_needs_command" -s h -l help -d 'Print help'
complete -c virt-mdev -n "__fish_virt_mdev_needs_command" -s V -l version -d 'Print version'
complete -c virt-mdev -n "__fish_virt_mdev_needs_command" -f -a "types" -d 'What the host\'s parents offer, and how many places are free'
complete -c virt-mdev -n "__fish_virt_mdev_needs_command" -f -a "list" -d 'The host\'s mediated devices and the domains that have them'
complete -c virt-mdev -n "__fish_virt_mdev_needs_command" -f -a "show" -d 'All that is known of one device, or of the devices of one domain'
complete -c virt-mdev -n "__fish_virt_mdev_needs_command" -f -a "assign" -d 'Give a domain a device, in its definition'
complete -c virt-mdev -n "__fish_virt_mdev_needs_command" -f -a "unassign" -d 'Take a device out of a domain\'s definition'
complete -c virt-mdev -n "__fish_virt_mdev_needs_command" -f -a "doctor" -d 'What on this host would keep a domain from its devices, with fixes'
complete -c virt-mdev -n "__fish_virt_mdev_needs_command" -f -a "attach" -d 'Give a running domain a device: make it, label it, plug it in'
complete -c virt-mdev -n "__fish_virt_mdev_needs_command" -f -a "detach" -d 'Take a device out of a running domain, and away'
complete -c virt-mdev -n "__fish_virt_mdev_needs_command" -f -a "reconcile" -d 'Take away devices that nobody answers for any more'
complete -c virt-mdev -n "__fish_virt_mdev_needs_command" -f -a "release" -d 'Take away the devices of one domain that has gone, or one device'
complete -c virt-mdev -n "__fish_virt_mdev_needs_command" -f -a "plan" -d 'What an event would do to a domain, whose XML is read on stdin'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand types" -l json -d 'Print JSON'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand types" -l long -d 'All that the drivers say, however wide'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand types" -s h -l help -d 'Print help'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand list" -l format -d 'table, tree, json or prometheus (for a node exporter)' -r -f -a "table\t'For people'
tree\t'Card, virtual function, device, domain, and free places'
json\t'For programs'
prometheus\t'Numbers for a node exporter\'s textfile'"
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand list" -l tree -d 'Draw card, function, device and domain, and free places'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand list" -l json -d 'Print JSON'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand list" -s h -l help -d 'Print help'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand show" -l json -d 'Print JSON'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand show" -s h -l help -d 'Print help'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand assign" -l count -d 'How many such devices' -r -f
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand assign" -l parent -d 'On this one; of several, the first with room' -r -f
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand assign" -l attribute -d 'Of the driver; several: in this order' -r -f
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand assign" -l placement -d 'The fullest card that fits, or the emptiest' -r -f
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand assign" -l numa -d 'Only on parents of this NUMA node' -r -f
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand assign" -l keep -d 'Keep the device for the domain\'s next start'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand assign" -l print -d 'Only print the XML; change nothing'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand assign" -l start -d 'Start the domain afterwards'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand assign" -l force -d 'Even if this host does not offer the type'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand assign" -l fresh -d 'Instead: new UUIDs for what a clone has'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand assign" -s h -l help -d 'Print help'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand unassign" -l all -d 'All that it has from virt-mdev'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand unassign" -s h -l help -d 'Print help'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand doctor" -l fix -d 'Do what is safe about it, and say so'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand doctor" -l json -d 'Print JSON'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand attach" -l parent -d 'On this one; of several, the first with room' -r -f
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand attach" -l attribute -d 'Of the driver; several: in this order' -r -f
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand attach" -l placement -d 'The fullest card that fits, or the emptiest' -r -f
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand attach" -l numa -d 'Only on parents of this NUMA node' -r -f
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand attach" -l keep-for -d 'How long, if nobody opens it' -r -f
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand attach" -l prepare-only -d 'Make it and print its XML; attach it yourself'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand attach" -s h -l help -d 'Print help'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand detach" -l wait -d 'How long the guest may take to let go' -r -f
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand detach" -s h -l help -d 'Print help'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand reconcile" -l dry-run -d 'Only say what would be done'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand reconcile" -l quiet -d 'Say nothing if there is nothing to do'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand reconcile" -s h -l help -d 'Print help'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand release" -l force -d 'Even if somebody answers for it, or it is kept; never if in use'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand release" -s h -l help -d 'Print help'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand plan" -l event -d 'The hook\'s event, as prepare (the default) or release' -r -f -a "prepare\t''
start\t''
started\t''
stopped\t''
release\t''
reconnect\t''
migrate\t''
restore\t''"
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand plan" -l json -d 'Print JSON'
complete -c virt-mdev -n "__fish_virt_mdev_using_subcommand plan" -s h -l help -d 'Print help'
