const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const { spawn, execFileSync, fork } = require('child_process');
const fs = require('fs'), net = require('net'), http = require('http');
if (process.argv[2] === 'child') {
  process.on('message', (m) => { process.send(m * 2); process.disconnect(); });
} else if (!isMainThread) {
  let sum = 0;
  for (let i = 0; i < workerData * 1000; i++) sum += i % 11;
  parentPort.postMessage(sum);
} else (async () => {
  const results = await Promise.all([1, 2, 3, 4].map((n) => new Promise((resolve, reject) => {
    const worker = new Worker(__filename, { workerData: n });
    worker.on('message', resolve).on('error', reject);
  })));
  console.log(results);
  console.log(execFileSync('sh', ['-c', 'echo sync']).toString().trim());
  const child = spawn('sh', ['-c', 'cat; exit 5']);
  let text = '';
  child.stdout.on('data', (d) => { text += d; });
  child.stdin.end('to the child');
  const code = await new Promise((resolve) => child.on('close', resolve));
  console.log(text, code);
  const forked = fork(__filename, ['child']);
  const answer = new Promise((resolve) => forked.on('message', resolve));
  forked.send(21);
  console.log(await answer);
  const server = http.createServer((request, response) => response.end('path ' + request.url)).listen(0, '127.0.0.1');
  await new Promise((resolve) => server.on('listening', resolve));
  const body = await new Promise((resolve) => http.get({ port: server.address().port, host: '127.0.0.1', path: '/x', agent: false }, (r) => {
    let all = ''; r.on('data', (d) => { all += d; }).on('end', () => resolve(all));
  }));
  console.log(body);
  server.close();
  fs.mkdirSync('a/b', { recursive: true });
  fs.writeFileSync('a/b/c', 'x'.repeat(100000));
  console.log((await fs.promises.stat('a/b/c')).size, fs.readdirSync('a'));
  fs.rmSync('a', { recursive: true });
  process.on('SIGUSR2', () => { console.log('signal'); process.exit(4); });
  process.kill(process.pid, 'SIGUSR2');
  setTimeout(() => {}, 5000);
})();
