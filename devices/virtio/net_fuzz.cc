// SPDX-License-Identifier: Apache-2.0
//
// A hostile driver against the network device, and a host that sends it
// packets, fails, and goes away. Each packet that comes out must be one whose
// header was checked.
#include <array>
#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cloister/devices/virtio/hostile_driver.h"
#include "cloister/devices/virtio/net.h"
#include "cloister/devices/virtio/net_header.h"
#include "cloister/devices/virtio/net_port_fake.h"

namespace cloister::devices::virtio {
namespace {

// All that the device may ever have been allowed to say.
constexpr uint64_t kAnything = ~uint64_t{0};

void CheckSent(NetWire& wire) {
  while (std::optional<std::string> packet = wire.TakeNow()) {
    FuzzRequire(packet->size() >= NetHeader::kSize + kNetMinPacket, "short");
    std::array<uint8_t, NetHeader::kSize> bytes;
    std::copy_n(packet->begin(), bytes.size(), bytes.begin());
    const NetHeader header = NetHeader::Parse(bytes);
    FuzzRequire(header.num_buffers == 0, "num_buffers");
    FuzzRequire(
        NetHeaderIsValid(header, kAnything, packet->size() - NetHeader::kSize),
        "a header that was not checked");
  }
}

void Host(FuzzInput& input, Net& net, NetWire& wire) {
  static constexpr int kErrors[] = {0, 0, EAGAIN, EIO, EBADFD};
  switch (input.UpTo(5)) {
    case 0:
    case 1: {
      const size_t sizes[] = {60, 1500, 4000, kNetMaxPacket};
      wire.Put({}, std::string(sizes[input.UpTo(3)], 'p'));
      break;
    }
    case 2:
      wire.send_error = kErrors[input.UpTo(4)];
      break;
    case 3:
      wire.receive_error = kErrors[input.UpTo(4)];
      break;
    case 4: {
      RateLimiterUpdate update;
      update.bandwidth = {input.UpTo(1) * 2000, 0,
                          std::chrono::milliseconds(1)};
      (void)(input.Flip() ? net.UpdateRxLimit(update)
                          : net.UpdateTxLimit(update));
      break;
    }
    default:
      wire.gone = input.UpTo(7) == 0;
  }
}

std::vector<uint8_t> Request(FuzzInput& input, const Net& net, uint16_t queue) {
  if (queue + 1u == net.queue_sizes().size()) {
    std::vector<uint8_t> command = {4, 0, 0, 0};
    command[2] = input.Take<uint8_t>() % 4;
    if (input.UpTo(7) == 0) command = input.Bytes(8);
    return command;
  }
  if (queue % 2 == 0) return {};
  std::vector<uint8_t> packet = input.Bytes(NetHeader::kSize);
  if (input.Flip()) packet.assign(NetHeader::kSize, 0);
  packet.resize(packet.size() + input.UpTo(2000), 'q');
  return packet;
}

void Fuzz(FuzzInput& input) {
  NetWire wires[2];
  std::vector<std::unique_ptr<NetPort>> ports;
  for (NetWire& wire : wires) {
    ports.push_back(std::make_unique<NetPortFake>(wire));
  }
  auto worker = Worker::Create("fuzz");
  FuzzRequire(worker.ok(), "worker");
  base::EventLoop& loop = (*worker)->loop();
  auto net = Net::Create({"fuzz",
                          *NetMac::Parse("52:54:00:00:00:01"),
                          {},
                          {},
                          std::chrono::milliseconds(1)},
                         std::move(ports), *std::move(worker));
  FuzzRequire(net.ok(), "net");
  FakeRam ram;
  HostileDriver driver(
      **net, loop, ram, input,
      {[&](uint16_t queue) { return Request(input, **net, queue); },
       [&] { Host(input, **net, wires[input.UpTo(1)]); }});
  driver.Run();
  for (NetWire& wire : wires) CheckSent(wire);
}

}  // namespace
}  // namespace cloister::devices::virtio

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  cloister::devices::virtio::FuzzInput input(data, size);
  cloister::devices::virtio::Fuzz(input);
  return 0;
}
