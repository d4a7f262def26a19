// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_TAP_H_
#define CLOISTER_DEVICES_VIRTIO_TAP_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/base/unique_fd.h"
#include "cloister/devices/virtio/net_port.h"

namespace cloister::devices::virtio {

// One queue of a tap interface of the host (tun(4); TUNSETIFF with
// IFF_VNET_HDR, since Linux 2.6.27; several queues since 3.8). The interface
// stays when this is gone, if it was there before.
class Tap : public NetPort {
 public:
  static constexpr int kMaxQueues = 16;

  // Attaches to an interface that exists, with as many queues. Errors name it:
  // NotFound if there is none, Unavailable if something else is attached,
  // PermissionDenied, InvalidArgument for what is no tap or for several queues
  // on an interface made without multi_queue.
  static absl::StatusOr<std::vector<std::unique_ptr<Tap>>> Open(
      absl::string_view name, int queues);

  // Takes over a descriptor of a tap that is attached already, with headers
  // (IFF_VNET_HDR); InvalidArgument, naming the descriptor, for anything else.
  // It must be without packet information (IFF_NO_PI) as well, which Linux does
  // not let anybody find out.
  static absl::StatusOr<std::unique_ptr<Tap>> FromFd(base::UniqueFd fd);

  const std::string& name() const { return name_; }

  int fd() const override { return fd_.get(); }
  ssize_t Receive(absl::Span<const struct iovec> to) override;
  ssize_t Send(absl::Span<const struct iovec> from) override;
  absl::Status SetOffloads(const NetOffloads& offloads) override;
  absl::Status SetEnabled(bool enabled) override;
  bool IsGone() override;

 private:
  Tap(base::UniqueFd fd, std::string name, bool multi_queue)
      : fd_(std::move(fd)), name_(std::move(name)), multi_queue_(multi_queue) {}
  static absl::StatusOr<std::unique_ptr<Tap>> Attach(const std::string& name,
                                                     bool multi_queue);
  absl::Status Prepare();

  base::UniqueFd fd_;
  const std::string name_;
  const bool multi_queue_;
  bool enabled_ = true;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_TAP_H_
