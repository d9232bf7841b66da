vite.config.ts
export default defineConfig({ server: { port: 5173, /* no */ strictPort: true }, preview: { "port": 4_173 } }) // end
