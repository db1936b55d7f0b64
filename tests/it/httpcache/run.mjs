// Runs the public HTTP cache tests against a forward proxy, offline: node run.mjs PACKAGE PROXY [ID,...]
//
// PACKAGE is the unpacked npm package http-cache-tests, PROXY is host:port. Its server runs in this
// process on loopback, its client speaks absolute-form to the proxy. Prints one line of JSON: for
// each test its kind, and true or why it failed.
import http from 'node:http'
import { once } from 'node:events'
import { pathToFileURL } from 'node:url'

const [folder, proxy, ids] = process.argv.slice(2)
const only = ids?.split(',')
const load = path => import(pathToFileURL(`${folder}/${path}`))
const { runTests, getResults } = await load('client/runner.mjs')
const suites = (await load('tests/index.mjs')).default
const handlers = {}
for (const name of ['config', 'test', 'state']) handlers[name] = (await load(`server/handle-${name}.mjs`)).default

// the server tells of odd requests on the console, which is for the results
const log = console.log
console.log = only?.length === 1 ? console.error : () => {}

const server = http.createServer((request, response) => {
  const [, name, ...rest] = new URL(request.url, 'http://127.0.0.1').pathname.split('/')
  handlers[name](rest, request, response)
})
server.listen(0, '127.0.0.1')
await once(server, 'listening')
const origin = `http://127.0.0.1:${server.address().port}`

const [host, port] = proxy.split(':')
const agent = new http.Agent({ keepAlive: true, maxSockets: 40 })
function fetch (url, { method = 'GET', headers = [], body } = {}) {
  return new Promise((resolve, reject) => {
    const flat = [...headers, ['Host', new URL(url).host]]
    if (body !== undefined) flat.push(['Content-Length', String(Buffer.byteLength(body))])
    const request = http.request({ host, port, agent, method, path: url, headers: flat.flat() })
    request.on('error', reject)
    request.on('response', answer => {
      const got = []
      answer.on('data', piece => got.push(piece))
      answer.on('error', reject)
      answer.on('end', () => {
        const fields = new Headers()
        for (let i = 0; i < answer.rawHeaders.length; i += 2) fields.append(answer.rawHeaders[i], answer.rawHeaders[i + 1])
        const text = Buffer.concat(got).toString()
        resolve({ status: answer.statusCode, statusText: answer.statusMessage, headers: fields, text: async () => text })
      })
    })
    request.end(body)
  })
}

const chosen = suites.map(suite => ({ ...suite, tests: suite.tests.filter(test => !only || only.includes(test.id)) }))
if (only?.length === 1) chosen.forEach(suite => suite.tests.forEach(test => { test.dump = true }))
await runTests(chosen, fetch, false, origin, 200)
const results = getResults()
const kinds = {}
for (const suite of suites) for (const test of suite.tests) kinds[test.id] = test.kind ?? 'required'
const told = {}
for (const [id, result] of Object.entries(results)) told[id] = { kind: kinds[id], result: result === true || result.join(': ') }
log(JSON.stringify(told))
process.exit(0)
