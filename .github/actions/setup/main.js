// Installs the program, settles the checkout, and tells the steps that follow to use it. Node alone, no packages.
'use strict';

const { spawn, spawnSync } = require('node:child_process');
const crypto = require('node:crypto');
const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');

const env = process.env;
const input = (name) => (env[`INPUT_${name.toUpperCase()}`] || '').trim();
const say = (level, text) => console.log(`::${level}::${String(text).replace(/%/g, '%25').replace(/\r/g, '%0D').replace(/\n/g, '%0A')}`);

// Appends to a file that the runner reads; a value cannot end itself, since the delimiter is not known before.
function put(file, name, value) {
  const end = `end-${crypto.randomUUID()}`;
  fs.appendFileSync(env[file], `${name}<<${end}\n${value}\n${end}\n`);
}

function set(name, value) {
  env[name] = value;
  put('GITHUB_ENV', name, value);
}

// A path as a word of GOCACHEPROG, which go splits at blanks outside of quotes.
function word(text) {
  if (!/[\s'"]/.test(text)) return text;
  return text.includes("'") ? `"${text}"` : `'${text}'`;
}

// What this job may write: the default branch the main prefix, a pull request of this repository its own, others nothing.
function writes(event, payload) {
  const repository = payload.repository || {};
  if (event === 'pull_request' || event === 'pull_request_target') {
    const from = payload.pull_request.head.repo;
    return from && from.full_name === repository.full_name ? `pr/${payload.pull_request.number}` : null;
  }
  // a schedule is of the default branch, and says little of the repository; workflow_run and others bear that branch's
  // name, whosever change began them
  const main = env.GITHUB_REF === `refs/heads/${repository.default_branch}`;
  return event === 'schedule' || (main && ['push', 'workflow_dispatch'].includes(event)) ? '' : null;
}

function install() {
  const repository = env.GITHUB_ACTION_REPOSITORY || env.GITHUB_REPOSITORY;
  const dir = path.join(env.RUNNER_TEMP, 'go-cache-plugin');
  const done = spawnSync('sh', [path.join(__dirname, '..', '..', 'install.sh')], {
    stdio: 'inherit',
    env: {
      ...env,
      GO_CACHE_PLUGIN_URL: input('releases') || `${env.GITHUB_SERVER_URL}/${repository}/releases`,
      GO_CACHE_PLUGIN_VERSION: input('version') || 'latest',
      GO_CACHE_PLUGIN_SHA256: input('sha256'),
      GO_CACHE_PLUGIN_DIR: dir,
      PATH: `${env.PATH}${path.delimiter}${dir}`,
    },
  });
  if (done.status !== 0) throw new Error('go-cache-plugin was not installed: see above');
  fs.appendFileSync(env.GITHUB_PATH, `${dir}\n`);
  return path.join(dir, 'go-cache-plugin');
}

// The credentials of `role`, for an hour, by the token that says which job this is.
async function assume(role, region) {
  const [ask, bearer] = [env.ACTIONS_ID_TOKEN_REQUEST_URL, env.ACTIONS_ID_TOKEN_REQUEST_TOKEN];
  if (!ask) throw new Error('the job has no OIDC token: it needs "permissions: id-token: write", which forks never get');
  const asked = await fetch(`${ask}&audience=sts.amazonaws.com`, { headers: { authorization: `Bearer ${bearer}` } });
  if (!asked.ok) throw new Error(`OIDC token: ${asked.status}`);
  const sts = env.AWS_ENDPOINT_URL_STS || (region ? `https://sts.${region}.amazonaws.com` : 'https://sts.amazonaws.com');
  const body = new URLSearchParams({
    Action: 'AssumeRoleWithWebIdentity',
    Version: '2011-06-15',
    RoleArn: role,
    RoleSessionName: `go-cache-plugin-${env.GITHUB_RUN_ID}`,
    WebIdentityToken: (await asked.json()).value,
  });
  const answer = await fetch(sts, { method: 'POST', body });
  const text = await answer.text();
  const field = (name) => (text.match(new RegExp(`<${name}>([^<]+)</${name}>`)) || [])[1];
  if (!answer.ok) throw new Error(`${role}: ${field('Message') || answer.status}`);
  const names = { AWS_ACCESS_KEY_ID: 'AccessKeyId', AWS_SECRET_ACCESS_KEY: 'SecretAccessKey', AWS_SESSION_TOKEN: 'SessionToken' };
  for (const [variable, name] of Object.entries(names)) {
    if (!field(name)) throw new Error(`${role}: the answer has no ${name}`);
    console.log(`::add-mask::${field(name)}`);
    set(variable, field(name));
  }
}

const freePort = () =>
  new Promise((resolve, reject) => {
    const server = net.createServer().on('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

const listens = (port) =>
  new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1', () => resolve(true) || socket.destroy());
    socket.on('error', () => resolve(false));
  });

// One server for the job, which serves modules too.
async function serve(binary) {
  const port = await freePort();
  // a folder that nobody else may enter; a socket's path must be short, as those of runners are not always
  const folder = fs.mkdtempSync('/tmp/go-cache-plugin-');
  put('GITHUB_STATE', 'folder', folder);
  const socket = path.join(folder, 'socket');
  const log = path.join(env.RUNNER_TEMP, 'go-cache-plugin', 'log');
  const out = fs.openSync(log, 'a');
  const args = ['serve', `--plugin=${socket}`, `--http=127.0.0.1:${port}`, '--modproxy'];
  const server = spawn(binary, args, { detached: true, stdio: ['ignore', out, out] });
  server.unref();
  put('GITHUB_STATE', 'server', server.pid);
  put('GITHUB_STATE', 'log', log);
  for (let i = 0; !(await listens(port)); i++) {
    if (server.exitCode !== null || i > 1200) throw new Error(`the server did not start: ${fs.readFileSync(log, 'utf8')}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  set('GOCACHEPROG', `${word(binary)} connect ${word(socket)}`);
  // should the server be gone, go asks the others
  set('GOPROXY', `http://127.0.0.1:${port}/mod|${env.GOPROXY || 'https://proxy.golang.org,direct'}`);
}

async function main() {
  const binary = install();
  const summary = path.join(env.RUNNER_TEMP, 'go-cache-plugin', 'summary.jsonl');
  put('GITHUB_STATE', 'binary', binary);
  put('GITHUB_STATE', 'summary', summary);
  set('GOCACHE_SUMMARY', summary);

  const [bucket, region, prefix] = [input('bucket'), input('region'), input('prefix')];
  if (bucket) {
    const variables = {
      GOCACHE_S3_BUCKET: bucket,
      GOCACHE_S3_REGION: region,
      GOCACHE_S3_ENDPOINT_URL: input('endpoint'),
      GOCACHE_KEY_PREFIX: prefix,
    };
    for (const [name, value] of Object.entries(variables)) if (value) set(name, value);
    const payload = env.GITHUB_EVENT_PATH ? JSON.parse(fs.readFileSync(env.GITHUB_EVENT_PATH, 'utf8')) : {};
    const mine = writes(env.GITHUB_EVENT_NAME, payload);
    if (mine === null) {
      set('GOCACHE_READ_ONLY', 'true');
      console.log('the bucket is read, not written: this is neither the default branch nor a pull request of this repository');
    } else if (mine) {
      // beside the main prefix, never in it: policies tell them apart
      set('GOCACHE_WRITE_PREFIX', path.posix.join(path.posix.dirname(prefix || '.'), mine));
    }
    if (input('role')) await assume(input('role'), region).catch((e) => say('warning', `go-cache-plugin: ${e.message}`));
  }

  if (input('settle') !== 'false') {
    const done = spawnSync(binary, ['settle'], { cwd: env.GITHUB_WORKSPACE || '.', encoding: 'utf8' });
    console.log(`${done.stdout}${done.stderr}`.trim());
    if (done.status !== 0) say('warning', 'go-cache-plugin: not settled, so fewer tests are cached: is the step after the checkout?');
  }
  if (input('modules') === 'true') await serve(binary);
  else set('GOCACHEPROG', word(binary));
}

main().catch((e) => {
  say('error', e.message);
  process.exitCode = 1;
});
