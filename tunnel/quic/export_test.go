package quic

// Certificate lets tests play an agent that does not keep to HTTP/3.
var Certificate = certificate
