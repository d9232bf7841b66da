// Measures within one node process, as a tool that is written in it would call them.
import getPort from 'get-port';
import { detect } from 'detect-port';

const time = async call => {
    const times = [];
    for (let round = 0; round < 220; round++) {
        const start = process.hrtime.bigint();
        await call();
        times.push(Number(process.hrtime.bigint() - start) / 1000);
    }
    return times.slice(20);
};
console.log(JSON.stringify({
    'get-port': await time(() => getPort()),
    'detect-port': await time(() => detect(20000)),
}));
