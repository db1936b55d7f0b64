# Tools that load packages through `go`, and so use what GOCACHEPROG names; nothing else is to be set for them.
# not run: none of them is on a CI machine, and they take minutes to build; README says which were tried by hand
export GOCACHEPROG=go-cache-plugin
staticcheck ./...
dlv debug ./cmd/app
gopls check main.go
golangci-lint run
