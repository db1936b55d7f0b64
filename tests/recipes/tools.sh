# Tools that load packages through `go`, and so use what GOCACHEPROG names.
# not run: installs four programs and takes minutes; tried by hand, see README
export GOCACHEPROG=go-cache-plugin
gopls check main.go
golangci-lint run
staticcheck ./...
dlv test --check-go-version=false . -- -test.run=TestIt
