
# Offers the images of a place after "PLACE:", and its containers after "PLACE@"; otherwise commands, options
# and files.
_imgmount_with_names() {
    local line=${COMP_LINE:0:COMP_POINT} mark head=""
    local word=${line##*[[:space:]]}
    COMPREPLY=()
    if [[ $word == [!-]*[:@]* ]]; then
        mapfile -t COMPREPLY < <("$1" complete -- "$word" 2>/dev/null)
    fi
    if [[ ${#COMPREPLY[@]} -eq 0 ]]; then
        _imgmount "$@"
        return
    fi
    # A path in the image can follow.
    compopt -o nospace 2>/dev/null
    # Readline replaces only the text after the last of these marks.
    for mark in : @ =; do
        if [[ $COMP_WORDBREAKS == *"$mark"* && $word == *"$mark"* ]]; then
            local before=${word%"${word##*"$mark"}"}
            [[ ${#before} -gt ${#head} ]] && head=$before
        fi
    done
    COMPREPLY=("${COMPREPLY[@]#"$head"}")
}

if [[ "${BASH_VERSINFO[0]}" -eq 4 && "${BASH_VERSINFO[1]}" -ge 4 || "${BASH_VERSINFO[0]}" -gt 4 ]]; then
    complete -F _imgmount_with_names -o nosort -o bashdefault -o default imgmount
fi
