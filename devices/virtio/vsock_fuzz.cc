// SPDX-License-Identifier: Apache-2.0
//
// A hostile driver against the socket device, whose host has a client and a
// listener that come, talk, and leave.
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/devices/virtio/hostile_driver.h"
#include "cloister/devices/virtio/vsock.h"
#include "cloister/devices/virtio/vsock_listener.h"
#include "cloister/devices/virtio/vsock_packet.h"

namespace cloister::devices::virtio {
namespace {

constexpr uint64_t kCid = 3;
constexpr uint32_t kPort = 7;  // somebody listens

// A directory for the time of the process.
class Directory {
 public:
  Directory() {
    char path[] = "/tmp/cloister-vsock-fuzz-XXXXXX";
    FuzzRequire(::mkdtemp(path) != nullptr, "mkdtemp");
    path_ = path;
  }
  ~Directory() { ::rmdir(path_.c_str()); }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// What the host does with its ends.
class Ends {
 public:
  Ends(const std::string& path, FuzzInput& input) : path_(path), input_(input) {
    auto listener = VsockListener::Create(absl::StrCat(path, "_", kPort));
    FuzzRequire(listener.ok(), "listener");
    listener_ = *std::move(listener);
  }
  void Act() {
    switch (input_.UpTo(5)) {
      case 0: {
        auto client = ConnectUnix(path_);
        if (client.ok()) ends_.push_back(*std::move(client));
        if (!ends_.empty()) Say(ends_.back().get(), "CONNECT 9\n");
        break;
      }
      case 1: {
        auto peer = listener_->Accept();
        if (peer.ok()) ends_.push_back(*std::move(peer));
        break;
      }
      case 2:
        if (int fd = Pick(); fd >= 0) Say(fd, std::string(5000, 's'));
        break;
      case 3:
        if (int fd = Pick(); fd >= 0) {
          Hear(fd);
        }
        break;
      case 4:
        if (int fd = Pick(); fd >= 0) {
          ::shutdown(fd, input_.Flip() ? SHUT_WR : SHUT_RD);
        }
        break;
      default:
        if (Pick() >= 0) {
          ends_.erase(ends_.begin() + picked_);
        }
    }
  }

 private:
  // Private pages hold marks; nothing else holds so many in a row.
  static void Hear(int fd) {
    static const std::string kSecret(64, char{HostileDriver::kMark});
    std::string heard(65536, 0);
    const ssize_t size = ::recv(fd, heard.data(), heard.size(), MSG_DONTWAIT);
    heard.resize(size > 0 ? size : 0);
    FuzzRequire(heard.find(kSecret) == std::string::npos,
                "private memory was sent");
  }
  static void Say(int fd, const std::string& text) {
    (void)::send(fd, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  }
  int Pick() {
    if (ends_.empty()) return -1;
    picked_ = input_.UpTo(static_cast<uint32_t>(ends_.size()) - 1);
    return ends_[picked_].get();
  }

  const std::string path_;
  FuzzInput& input_;
  std::unique_ptr<VsockListener> listener_;
  std::vector<base::UniqueFd> ends_;
  size_t picked_ = 0;
};

std::vector<uint8_t> Request(FuzzInput& input, uint16_t queue) {
  if (queue != 1) return {};
  VsockHeader header;
  header.src_cid = input.UpTo(31) == 0 ? input.Take<uint64_t>() : kCid;
  header.dst_cid = input.UpTo(31) == 0 ? input.Take<uint64_t>() : kVsockHostCid;
  header.src_port = input.Flip() ? 9 : input.Take<uint8_t>();
  // The second: what the first client's connection is called.
  header.dst_port = input.Flip() ? kPort : (uint32_t{1} << 30) + input.UpTo(3);
  header.type = input.UpTo(31) == 0 ? input.Take<uint16_t>() : 1;
  header.op = static_cast<VsockOp>(input.UpTo(8));
  header.flags = input.UpTo(3) == 0 ? input.Take<uint8_t>() : 0;
  if (header.op == VsockOp::kShutdown) header.flags = input.UpTo(4);
  header.buf_alloc = input.Flip() ? 65536 : input.Take<uint32_t>();
  header.fwd_cnt = input.Flip() ? 0 : input.Take<uint32_t>();
  std::vector<uint8_t> payload;
  if (header.op == VsockOp::kReadWrite) payload.resize(input.UpTo(4000), 'g');
  header.len = static_cast<uint32_t>(payload.size());
  if (input.UpTo(31) == 0) header.len = input.Take<uint32_t>();
  const auto bytes = header.Serialize();
  payload.insert(payload.begin(), bytes.begin(), bytes.end());
  if (input.UpTo(31) == 0) payload.resize(input.UpTo(60));
  return payload;
}

void Fuzz(FuzzInput& input) {
  static const Directory directory;
  Vsock::Options options;
  options.name = "fuzz";
  options.cid = kCid;
  options.path = directory.File("v");
  options.max_connections = 8;
  options.patience = std::chrono::milliseconds(1);
  auto worker = Worker::Create("fuzz");
  FuzzRequire(worker.ok(), "worker");
  base::EventLoop& loop = (*worker)->loop();
  auto vsock = Vsock::Create(options, *std::move(worker));
  FuzzRequire(vsock.ok(), "vsock");
  Ends ends(options.path, input);
  FakeRam ram;
  ram.StopProtecting();
  HostileDriver driver(**vsock, loop, ram, input,
                       {[&](uint16_t queue) { return Request(input, queue); },
                        [&] { ends.Act(); }});
  driver.Run();
}

}  // namespace
}  // namespace cloister::devices::virtio

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  cloister::devices::virtio::FuzzInput input(data, size);
  cloister::devices::virtio::Fuzz(input);
  return 0;
}
