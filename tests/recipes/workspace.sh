# A monorepo with go.work: all its modules share one readahead list, called after the first module that
# go.work uses, from whichever of its folders `go` is started. Where jobs build other parts of it, give each a
# list of its own with GOCACHE_SCOPE, so that no job fetches ahead what it does not need.
go work init ./api ./web
export GOCACHEPROG=go-cache-plugin
go build ./api/... ./web/...
(cd web && GOCACHE_SCOPE=monorepo/web go test ./...)
