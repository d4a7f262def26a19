// SPDX-License-Identifier: Apache-2.0
//
// Moves data that can be checked, inside guests and on the lab's host; static,
// without libraries.
//
//   net_guest serve ADDRESS MIB SEED   waits for one peer; reads MIB MiB that
//                                      SEED determines up to their end, then
//                                      sends as many of its own
//   net_guest move ADDRESS MIB SEED    the other side of it
//   net_guest serve|move ADDRESS MIB SEED rounds
//                                      so again, over the same connection,
//                                      until who moves gets a SIGTERM
//   net_guest refused ADDRESS          succeeds if nobody can be reached there
//
// ADDRESS: tcp:IPV4:PORT, vsock:CID:PORT, unix:PATH, or hybrid:PATH:PORT, which
// is a guest's port behind a monitor's socket. Prints what went wrong, and
// exits with 0 if nothing did.
#include <arpa/inet.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr size_t kChunk = 256 << 10;
uint8_t g_wanted[kChunk];
uint8_t g_got[kChunk];
volatile sig_atomic_t g_told_to_end = 0;

[[noreturn]] void Die(const char* what) {
  printf("net_guest: %s: %s\n", what, strerror(errno));
  exit(1);
}
[[noreturn]] void Fail(const char* what) {
  printf("net_guest: %s\n", what);
  exit(1);
}

// An address, and for hybrid ones the port to ask for.
struct Address {
  sockaddr_storage storage = {};
  socklen_t length = 0;
  const char* ask = nullptr;

  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

char* Split(char* text) {
  char* colon = strrchr(text, ':');
  if (colon == nullptr) Fail("an address needs a port");
  *colon = '\0';
  return colon + 1;
}

void ParseUnix(const char* path, Address& address) {
  auto* to = reinterpret_cast<sockaddr_un*>(&address.storage);
  if (strlen(path) >= sizeof(to->sun_path)) Fail("path too long");
  to->sun_family = AF_UNIX;
  strcpy(to->sun_path, path);
  address.length = sizeof(*to);
}

Address Parse(char* text) {
  Address address;
  if (strncmp(text, "tcp:", 4) == 0) {
    auto* to = reinterpret_cast<sockaddr_in*>(&address.storage);
    const char* port = Split(text + 4);
    to->sin_family = AF_INET;
    to->sin_port = htons(static_cast<uint16_t>(atoi(port)));
    if (inet_pton(AF_INET, text + 4, &to->sin_addr) != 1) Fail("address");
    address.length = sizeof(*to);
  } else if (strncmp(text, "vsock:", 6) == 0) {
    auto* to = reinterpret_cast<sockaddr_vm*>(&address.storage);
    const char* port = Split(text + 6);
    to->svm_family = AF_VSOCK;
    to->svm_port = static_cast<uint32_t>(strtoul(port, nullptr, 10));
    to->svm_cid = static_cast<uint32_t>(strtol(text + 6, nullptr, 10));
    address.length = sizeof(*to);
  } else if (strncmp(text, "unix:", 5) == 0) {
    ParseUnix(text + 5, address);
  } else if (strncmp(text, "hybrid:", 7) == 0) {
    address.ask = Split(text + 7);
    ParseUnix(text + 7, address);
  } else {
    Fail("what address is that?");
  }
  return address;
}

uint64_t Next(uint64_t& state) {  // splitmix64
  uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// The next chunk of a stream: random words, and each chunk has them in another
// order and changed in another way, so that no two are alike. That is
// cheaper than new words, and the lab's guests are slow.
void Fill(uint64_t& state) {
  constexpr size_t kWords = kChunk / sizeof(uint64_t);
  static uint64_t words[kWords];
  static uint64_t begun = 0;
  if (begun == 0) {
    for (uint64_t& word : words) word = Next(begun);
  }
  const uint64_t mask = Next(state);
  const size_t first = Next(state) % kWords;
  for (size_t i = 0; i < kWords; ++i) {
    const uint64_t word = words[(first + i) % kWords] ^ mask;
    memcpy(g_wanted + i * sizeof(word), &word, sizeof(word));
  }
}

// The next MIB of a stream.
void Send(int fd, size_t mib, uint64_t& state) {
  for (size_t chunk = 0; chunk < mib * 4; ++chunk) {
    Fill(state);
    for (size_t done = 0; done < kChunk;) {
      const ssize_t sent = send(fd, g_wanted + done, kChunk - done, 0);
      if (sent <= 0) Die("send");
      done += sent;
    }
  }
}

// False if the stream ends here.
bool Receive(int fd, size_t mib, uint64_t& state) {
  for (size_t chunk = 0; chunk < mib * 4; ++chunk) {
    Fill(state);
    for (size_t done = 0; done < kChunk;) {
      const ssize_t got = recv(fd, g_got + done, kChunk - done, 0);
      if (got < 0) Die("recv");
      if (got == 0 && chunk == 0 && done == 0) return false;
      if (got == 0) Fail("the data ends early");
      done += got;
    }
    if (memcmp(g_got, g_wanted, kChunk) != 0) Fail("the data is not the same");
  }
  return true;
}

void End(int fd) {
  if (shutdown(fd, SHUT_WR) < 0) Die("shutdown");
}
void ExpectEnd(int fd) {
  if (recv(fd, g_got, 1, 0) != 0) Fail("the data does not end");
}

// Says where it wants to go, and waits to be let through.
void Ask(int fd, const char* port) {
  char line[64];
  const int length = snprintf(line, sizeof(line), "CONNECT %s\n", port);
  if (send(fd, line, length, 0) != length) Die("CONNECT");
  for (size_t i = 0; i < sizeof(line); ++i) {
    if (recv(fd, line + i, 1, 0) != 1) Fail("not let through");
    if (line[i] != '\n') continue;
    if (strncmp(line, "OK ", 3) != 0) Fail("no OK");
    return;
  }
  Fail("no end of a line");
}

int Connect(Address& address) {
  const int fd = socket(address.storage.ss_family, SOCK_STREAM, 0);
  if (fd < 0) Die("socket");
  if (connect(fd, address.get(), address.length) < 0) return -1;
  if (address.ask != nullptr) Ask(fd, address.ask);
  return fd;
}

int Accept(Address& address) {
  const int fd = socket(address.storage.ss_family, SOCK_STREAM, 0);
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (fd < 0 || bind(fd, address.get(), address.length) < 0) Die("bind");
  if (listen(fd, 1) < 0) Die("listen");
  printf("net_guest: listening\n");
  fflush(stdout);
  const int peer = accept(fd, nullptr, nullptr);
  if (peer < 0) Die("accept");
  return peer;
}

void Serve(Address& address, size_t mib, uint64_t seed) {
  const int peer = Accept(address);
  uint64_t theirs = seed, ours = seed + 1;
  if (!Receive(peer, mib, theirs)) Fail("no data");
  ExpectEnd(peer);
  Send(peer, mib, ours);
  End(peer);
  // The peer reads to the end before it closes.
  ExpectEnd(peer);
  printf("net_guest: served %zu MiB each way\n", mib);
}

void ServeRounds(Address& address, size_t mib, uint64_t seed) {
  const int peer = Accept(address);
  uint64_t theirs = seed, ours = seed + 1;
  size_t rounds = 0;
  for (; Receive(peer, mib, theirs); ++rounds) Send(peer, mib, ours);
  End(peer);
  printf("net_guest: served %zu rounds of %zu MiB each way\n", rounds, mib);
}

int Reach(Address& address) {
  const int fd = Connect(address);
  if (fd < 0) Die("connect");
  return fd;
}

void Move(Address& address, size_t mib, uint64_t seed) {
  const int fd = Reach(address);
  uint64_t ours = seed, theirs = seed + 1;
  Send(fd, mib, ours);
  End(fd);
  if (!Receive(fd, mib, theirs)) Fail("no data");
  ExpectEnd(fd);
  close(fd);
  printf("net_guest: moved %zu MiB each way\n", mib);
}

void MoveRounds(Address& address, size_t mib, uint64_t seed) {
  signal(SIGTERM, [](int) { g_told_to_end = 1; });
  const int fd = Reach(address);
  uint64_t ours = seed, theirs = seed + 1;
  size_t rounds = 0;
  for (; g_told_to_end == 0; ++rounds) {
    Send(fd, mib, ours);
    if (!Receive(fd, mib, theirs)) Fail("no data");
  }
  End(fd);
  ExpectEnd(fd);
  close(fd);
  printf("net_guest: moved %zu rounds of %zu MiB each way\n", rounds, mib);
}

}  // namespace

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  if (argc < 3) Fail("serve|move|refused ADDRESS [MIB SEED [rounds]]");
  Address address = Parse(argv[2]);
  if (strcmp(argv[1], "refused") == 0) {
    if (Connect(address) >= 0) Fail("somebody is there");
    printf("net_guest: refused: %s\n", strerror(errno));
    return 0;
  }
  if (argc < 5) Fail("how much, and which?");
  const size_t mib = strtoul(argv[3], nullptr, 10);
  const uint64_t seed = strtoull(argv[4], nullptr, 10) << 32;
  const bool serve = strcmp(argv[1], "serve") == 0;
  if (argc > 5 && strcmp(argv[5], "rounds") == 0) {
    serve ? ServeRounds(address, mib, seed) : MoveRounds(address, mib, seed);
  } else {
    serve ? Serve(address, mib, seed) : Move(address, mib, seed);
  }
  return 0;
}
