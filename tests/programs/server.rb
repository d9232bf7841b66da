# ruby server.rb PORT
require "socket"

server = TCPServer.new("127.0.0.1", ARGV[0].to_i)
loop do
  connection = server.accept
  nil until connection.gets.to_s.strip.empty?
  connection.write("HTTP/1.0 200 OK\r\n\r\nhello\n")
  connection.close
end
