
# Offers the images of a place after "PLACE:", and its containers after "PLACE@".
function __fish_imgmount_names
    set -l words (commandline -opc)
    $words[1] complete -- (commandline -ct) 2>/dev/null
end
complete -c imgmount -n "string match -qr '^[^-].*[:@]' -- (commandline -ct)" -a "(__fish_imgmount_names)"
