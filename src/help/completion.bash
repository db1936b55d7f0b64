# completions for bash: source <(go-cache-plugin help bash)
_go_cache_plugin() {
    local cur=${COMP_WORDS[COMP_CWORD]} flag=${COMP_WORDS[COMP_CWORD - 1]} command='' words='' i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        @VALUED@) i=$((i + 1)) ;;
        @COMMANDS@)
            [[ -z $command ]] || continue
            command=${COMP_WORDS[i]}
            ;;
        = | -*) ;;
        *)
            # what run is to run has completions of its own
            if [[ $command == run ]] && declare -F _command_offset >/dev/null; then
                _command_offset "$i"
                return
            fi
            ;;
        esac
    done
    # bash takes --flag=value apart at =
    if [[ $cur == = ]]; then
        cur=
    elif [[ $flag == = ]]; then
        flag=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    case $flag in
    @VALUES@
    esac
    case $command in
    @LISTS@
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}
complete -o default -F _go_cache_plugin go-cache-plugin
