// Does what one test of tests/mcp_client.rs says, with an official client. Arguments: its folder, its name, the
// test, and as JSON how the server is started (command, cwd, env) and a port of the service type `mine`.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

// What a client complains of ends up in somebody's log.
console.warn = (words) => assert.fail(words);

const [folder, name, test, settings] = process.argv.slice(2);
const { port, ...server } = JSON.parse(settings);
const load = createRequire(`${folder}/`);

const clients = {
  sdk: () => ({
    ...load('@modelcontextprotocol/sdk/client/index.js'),
    ...load('@modelcontextprotocol/sdk/client/stdio.js'),
    ...load('@modelcontextprotocol/sdk/validation/ajv'),
  }),
  client: () => ({
    ...load('@modelcontextprotocol/client'),
    ...load('@modelcontextprotocol/client/stdio'),
    ...load('@modelcontextprotocol/client/validators/ajv'),
  }),
};
// The newest protocol has no session, and is not spoken unless it is asked for.
const [which, protocol] = name.split('@');
const { Client, StdioClientTransport, AjvJsonSchemaValidator } = clients[which]();
const options = protocol ? { versionNegotiation: { mode: { pin: protocol } } } : {};

const client = new Client({ name: 'test', version: '1' }, options);
await client.connect(new StdioClientTransport({ ...server, args: ['mcp'], stderr: 'inherit' }));
// From here on the client holds each answer against the schema of its tool.
const { tools } = await client.listTools();

const validator = (schema) => new AjvJsonSchemaValidator().getValidator(schema);
const tool = (name) => tools.find((tool) => tool.name === name);
const ask = (name, args) => client.callTool({ name, arguments: args });

async function ok(name, args) {
  const checked = validator(tool(name).inputSchema)(args);
  assert.ok(checked.valid, `${name}: ${checked.errorMessage}`);
  const answer = await ask(name, args);
  assert.ok(!answer.isError, `${name}: ${JSON.stringify(answer)}`);
  assert.deepEqual(JSON.parse(answer.content[0].text), answer.structuredContent);
  return answer.structuredContent;
}

const tests = {
  async finds() {
    assert.equal(client.getServerVersion().name, 'styxy');
    assert.match(client.getInstructions(), /call allocate/);
    const names = ['allocate', 'release', 'list', 'port', 'check', 'suggest', 'audit'];
    assert.deepEqual(tools.map((tool) => tool.name), names);
    assert.deepEqual(tools.filter((tool) => tool.annotations.readOnlyHint).length, 5);
  },

  async validates() {
    const lease = await ok('allocate', { service_type: 'mine', service_name: 'web', port, ttl: 600 });
    assert.equal(lease.port, port);
    const pair = await ok('allocate', { service_type: 'mine', count: 2, protocol: 'both', hold: 'none' });
    assert.equal(pair.ports.length, 2);
    assert.equal((await ok('list', {})).leases.length, 3);
    assert.equal((await ok('check', { port })).lease.lease_id, lease.lease_id);
    assert.equal((await ok('suggest', { service_type: 'mine', count: 2 })).suggestions.length, 2);
    // No file shows anything, and neither has been in use for long.
    assert.deepEqual((await ok('suggest', {})).suggestions, []);
    // It is told after the answer.
    while (!(await ok('audit', { port })).events.some(({ action }) => action === 'allocate'));
    assert.deepEqual(await ok('release', { port }), { lease_id: lease.lease_id, port });

    // A check that finds nothing wrong in anything would be none.
    const output = validator(tool('allocate').outputSchema);
    assert.ok(output(lease).valid);
    for (const wrong of [{ ...lease, port: '3000' }, { ...lease, port: 0 }, { port }]) {
      assert.ok(!output(wrong).valid, JSON.stringify(wrong));
    }
    const input = validator(tool('allocate').inputSchema);
    for (const wrong of [{}, { service_type: 'mine', prot: 1 }, { service_type: 'mine', ttl: 0 }]) {
      assert.ok(!input(wrong).valid, JSON.stringify(wrong));
    }
  },

  async refuses() {
    const refused = await ask('allocate', { service_type: 'mien' });
    assert.equal(refused.isError, true);
    assert.match(refused.content[0].text, /did you mean "mine"\?/);
    for (const [name, args] of [
      ['allocate', { service_type: 7 }],
      ['check', { port: 70000 }],
    ]) {
      assert.equal((await ask(name, args)).isError, true);
    }
    await assert.rejects(ask('no_such_tool', {}), (error) => error.code === -32602);
    assert.deepEqual(await ok('list', {}), { leases: [] });
  },

  async at_once() {
    const names = Array.from({ length: 10 }, (_, i) => `n${i}`);
    const leases = names.map((name) => ok('allocate', { service_type: 'mine', service_name: name }));
    const ports = new Set((await Promise.all(leases)).map((lease) => lease.port));
    assert.equal(ports.size, 10);
  },

  async leases() {
    await ok('allocate', { service_type: 'mine' });
    await ok('allocate', { service_type: 'mine', service_name: 'kept', owner: 'none' });
  },
};

await tests[test]();
await client.close();
