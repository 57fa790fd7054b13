"""URLs that must never be fetched in public mode: private targets in every dress."""

from __future__ import annotations

ADDRESSES = """
127.0.0.1 127.0.0.2 127.1.2.3 127.255.255.255 0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1
100.100.100.200 100.127.255.255 169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1
172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.52.193.1 192.88.99.1 192.168.0.1
192.168.255.255 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.250
240.0.0.1 255.255.255.254 255.255.255.255 168.63.129.16
""".split()

NUMBERS = """
2130706433 0x7f000001 0x7F000001 017700000001 0x7f.0x0.0x0.0x1 0x7f.1 0177.0.0.1 0177.0.0.01
127.1 127.0.1 127.0.0.01 127.0.0.0x1 0 0x0 00 1 0.0 10.1 167772161 0xa000001 3232235521
0xc0a80001 192.168.1 192.168.257 2852039166 0xa9fea9fe 0xa9.0xfe.0xa9.0xfe 0251.0376.0251.0376
169.254.43518 169.16689662 4294967295 99999999999999 1.2.3.4.5 256.256.256.256 127.0.0.1.1
08.8.8.8 8.8.8.08 0x 1.0x
""".split()

SIXES = """
:: ::1 0:0:0:0:0:0:0:1 0000:0000:0000:0000:0000:0000:0000:0001 ::127.0.0.1 ::7f00:1
::ffff:127.0.0.1 ::ffff:7f00:1 ::ffff:0:127.0.0.1 ::FFFF:10.0.0.1 ::ffff:169.254.169.254
::ffff:a9fe:a9fe ::ffff:192.168.0.1 ::ffff:100.64.0.1 ::ffff:0.0.0.0 ::ffff:224.0.0.1
64:ff9b::127.0.0.1 64:ff9b::7f00:1 64:ff9b::169.254.169.254 64:ff9b::a00:1 64:ff9b::192.168.1.1
64:ff9b:1::127.0.0.1 64:ff9b:1::1 2002:7f00:1:: 2002:7f00:0001::1 2002:a9fe:a9fe:: 2002:c0a8:1::
2002:a00:1::1 2001::1 2001:0:7f00:1:: 2001:0:4136:e378:8000:63bf:3fff:fdd2
2001:0:53aa:64c::f5ff:fffe 2001:10::1 2001:20::1 2001:2::1 2001:db8::1
2001:db8:85a3::8a2e:370:7334 3fff::1 5f00::1 100::1 100:0:0:1::1 fc00::1 fd00::1 fd00:ec2::254
fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff fe80::1 fe80::1%25eth0 fe80::a9fe:a9fe%251 febf::1
fec0::1 feff::1 ff00::1 ff02::1 ff0e::1 ff05::2 ::5efe:7f00:1 fe80::5efe:127.0.0.1 4000::1
8000::1 1::1
""".split()

PRIVATE_NAMES = {
    "localhost": "127.0.0.1",
    "LOCALHOST": "127.0.0.1",
    "localhost.": "127.0.0.1",
    "localhost.localdomain": "127.0.0.1",
    "ip6-localhost": "::1",
    "127.0.0.1.nip.example": "127.0.0.1",
    "metadata.google.internal": "169.254.169.254",
    "metadata": "169.254.169.254",
    "instance-data.ec2.internal": "169.254.169.254",
    "kubernetes.default.svc": "10.96.0.1",
    "host.docker.internal": "172.17.0.1",
    "router.lan": "192.168.1.1",
    "printer.local": "169.254.7.7",
    "mapped.example": "::ffff:10.0.0.1",
    "nat64.example": "64:ff9b::10.0.0.1",
    "teredo.example": "2001:0:7f00:1::",
    "six-to-four.example": "2002:7f00:1::",
    "zone.example": "fe80::1%eth0",
    "multicast.example": "ff02::1",
    "nonsense.example": "not an address",
}

MALFORMED = [
    "", " ", "http", "http:", "http:/", "http://", "http:///", "http:///etc/passwd",
    "//example.com/x", "example.com/x.jpg", "/etc/passwd", "C:/x.jpg", "file:///etc/passwd",
    "FILE:///etc/passwd", "file://localhost/etc/passwd", "ftp://example.com/x",
    "gopher://example.com:70/_x", "dict://example.com:11211/stat", "ldap://example.com",
    "jar:http://example.com!/", "data:image/png,x", "javascript:alert(1)", "ws://example.com",
    "unix:/var/run/docker.sock", "http+unix://%2Frun%2Fx/",
    "concat:http://example.com|file:///etc/passwd", "http://user@example.com/",
    "http://user:word@example.com/", "http://@example.com/", "http://:@example.com/",
    "http://example.com@127.0.0.1/", "http://127.0.0.1@example.com/", "http://a:b@c@127.0.0.1/",
    "http://example.com:80@127.0.0.1/", "http://127.0.0.1\\@example.com/", "http://example.com\\x",
    "http:\\\\127.0.0.1\\x", "http://exam\tple.com/", "http://example.com/\r\nHost: x",
    "http://exa mple.com/", "http://example.com/a b", "http://example.com/\x00",
    "http://example.com/\x7f", "http://example.com\u2028/", "\nhttp://example.com/",
    "http://example.com/ ", "http://example.com:0/", "http://example.com:22/",
    "http://example.com:25/", "http://example.com:53/", "http://example.com:111/",
    "http://example.com:445/", "http://example.com:65536/", "http://example.com:99999/",
    "http://example.com:-1/", "http://example.com:8a/", "http://example.com:80:80/", "http://[::1",
    "http://::1/", "http://[::1]x/", "http://[]/", "http://[1.2.3.4]/", "http://[v1.x]/",
    "http://[::1%25]/", "http://.example.com/", "http://exam..ple.com/", "http://-/",
    "http://%31%32%37.0.0.1/", "http://127%2e0%2e0%2e1/", "http://%6c%6fcalhost/",
    "http://exa%00mple.com/", "http://１２７.0.0.1/", "http://127。0。0。1/", "http://127．0．0．1/",
    "http://①②⑦.⓪.⓪.①/", "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/", "http://[::ⓕⓕⓕⓕ:7f00:1]/",
    "http://exam\u00adple.com/", "http://xn--/", "http://" + "a" * 64 + ".example/",
    "http://" + "a." * 130 + "example/", "http://example.com/" + "x" * 9000,
    "http://exa$mple.com/", "http://exa,mple.com/", "http://example.com;127.0.0.1/",
    "http://example.com#@127.0.0.1:22/",
]  # fmt: skip


def private_urls() -> list[str]:
    """Every private target as a URL."""
    plain = [f"http://{host}/x.jpg" for host in ADDRESSES + NUMBERS]
    dressed = [f"https://{host}.:8443/x" for host in ADDRESSES[:6]]
    return plain + dressed + [f"http://[{host}]/x.jpg" for host in SIXES]
