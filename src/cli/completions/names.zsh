# Offers the images of a place after "PLACE:", and its containers after "PLACE@"; otherwise commands, options
# and files.
functions[_imgmount_without_names]=$functions[_imgmount]
_imgmount() {
    if [[ $PREFIX == [^-]*[:@]* ]]; then
        local -a names
        names=("${(@f)$("$words[1]" complete -- "$PREFIX" 2>/dev/null)}")
        # A path in the image can follow, so no space is added.
        if [[ -n $names[1] ]]; then
            compadd -S '' -- $names
            return
        fi
    fi
    _imgmount_without_names "$@"
}

