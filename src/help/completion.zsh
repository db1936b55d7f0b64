#compdef go-cache-plugin
# completions for zsh: go-cache-plugin help zsh > a directory of $fpath/_go-cache-plugin
_go_cache_plugin() {
  local -a specs
  local command= i
  for ((i = 2; i < CURRENT; i++)); do
    case $words[i] in
    @COMMANDS@)
      command=$words[i]
      words=("${(@)words[i,-1]}")
      ((CURRENT -= i - 1))
      break
      ;;
    esac
  done
  case $command in
  @LISTS@
  esac
  _arguments -S $specs
}
if [ "$funcstack[1]" = _go-cache-plugin ]; then
  _go_cache_plugin "$@"
else
  compdef _go_cache_plugin go-cache-plugin
fi
