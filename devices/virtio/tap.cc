// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"
#include "cloister/devices/virtio/net_header.h"

namespace cloister::devices::virtio {
namespace {

constexpr char kTunDevice[] = "/dev/net/tun";

absl::Status CheckName(absl::string_view name) {
  const bool clean = std::all_of(name.begin(), name.end(), [](char c) {
    return std::isgraph(static_cast<unsigned char>(c)) && c != '/' &&
           c != ':' && c != '%';
  });
  if (name.empty() || name.size() >= IFNAMSIZ || !clean || name == "." ||
      name == "..") {
    return absl::InvalidArgumentError(
        absl::StrCat("tap \"", name, "\" is not the name of an interface"));
  }
  return absl::OkStatus();
}

struct ifreq RequestFor(const std::string& name, int flags) {
  struct ifreq request = {};
  std::memcpy(request.ifr_name, name.data(), name.size());
  request.ifr_flags = static_cast<short>(flags);
  return request;
}

absl::Status AttachError(int error, const std::string& name) {
  switch (error) {
    case EBUSY:
      return absl::UnavailableError(
          absl::StrCat("tap ", name, " is in use by another program"));
    case EINVAL:
      return absl::InvalidArgumentError(
          absl::StrCat(name,
                       " is not a tap, or was made with other queues "
                       "than asked for (multi_queue)"));
    default:
      return base::ErrnoStatus(error, absl::StrCat("TUNSETIFF of tap ", name));
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tap>> Tap::Attach(const std::string& name,
                                                 bool multi_queue) {
  base::UniqueFd fd(::open(kTunDevice, O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!fd.valid()) {
    return base::ErrnoStatus(errno,
                             absl::StrCat("tap ", name, ": open ", kTunDevice));
  }
  struct ifreq request =
      RequestFor(name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR |
                           (multi_queue ? IFF_MULTI_QUEUE : 0));
  if (::ioctl(fd.get(), TUNSETIFF, &request) < 0) {
    return AttachError(errno, name);
  }
  std::unique_ptr<Tap> tap(new Tap(std::move(fd), name, multi_queue));
  RETURN_IF_ERROR(tap->Prepare());
  return tap;
}

absl::StatusOr<std::vector<std::unique_ptr<Tap>>> Tap::Open(
    absl::string_view name, int queues) {
  RETURN_IF_ERROR(CheckName(name));
  if (queues < 1 || queues > kMaxQueues) {
    return absl::InvalidArgumentError(
        absl::StrCat("tap ", name, ": ", queues, " queues; 1 to ", kMaxQueues));
  }
  const std::string text(name);
  // TUNSETIFF would make an interface of that name.
  if (::if_nametoindex(text.c_str()) == 0) {
    return absl::NotFoundError(absl::StrCat(
        "tap ", name, " does not exist; make it with: ip tuntap add dev ", name,
        " mode tap", queues > 1 ? " multi_queue" : ""));
  }
  std::vector<std::unique_ptr<Tap>> taps;
  absl::StatusOr<std::unique_ptr<Tap>> first = Attach(text, queues > 1);
  bool multi_queue = queues > 1;
  if (absl::IsInvalidArgument(first.status()) && queues == 1) {
    // One queue of an interface that could have more.
    multi_queue = true;
    first = Attach(text, multi_queue);
  }
  RETURN_IF_ERROR(first.status());
  taps.push_back(*std::move(first));
  while (taps.size() < static_cast<size_t>(queues)) {
    ASSIGN_OR_RETURN(std::unique_ptr<Tap> tap, Attach(text, multi_queue));
    taps.push_back(std::move(tap));
  }
  return taps;
}

absl::StatusOr<std::unique_ptr<Tap>> Tap::FromFd(base::UniqueFd fd) {
  struct ifreq request = {};
  if (::ioctl(fd.get(), TUNGETIFF, &request) < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "not an attached tap: ", base::ErrnoName(errno), " from TUNGETIFF"));
  }
  request.ifr_name[IFNAMSIZ - 1] = '\0';
  const int flags = request.ifr_flags;
  // IFF_NO_PI cannot be asked for: TUNGETIFF always reports it.
  if ((flags & IFF_TAP) == 0 || (flags & IFF_VNET_HDR) == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(request.ifr_name, " is not a tap with IFF_VNET_HDR"));
  }
  RETURN_IF_ERROR(base::SetCloseOnExec(fd.get()));
  const int file_flags = ::fcntl(fd.get(), F_GETFL);
  if (file_flags < 0 ||
      ::fcntl(fd.get(), F_SETFL, file_flags | O_NONBLOCK) < 0) {
    return base::ErrnoStatus(
        errno, absl::StrCat("O_NONBLOCK on descriptor ", fd.get()));
  }
  std::unique_ptr<Tap> tap(
      new Tap(std::move(fd), request.ifr_name, (flags & IFF_MULTI_QUEUE) != 0));
  RETURN_IF_ERROR(tap->Prepare());
  return tap;
}

absl::Status Tap::Prepare() {
  int size = NetHeader::kSize;
  if (::ioctl(fd_.get(), TUNSETVNETHDRSZ, &size) < 0) {
    return base::ErrnoStatus(
        errno, absl::StrCat("TUNSETVNETHDRSZ ", size, " of tap ", name_));
  }
  return SetOffloads({});
}

ssize_t Tap::Receive(absl::Span<const struct iovec> to) {
  return base::RetryOnEintr(
      [&] { return ::readv(fd_.get(), to.data(), to.size()); });
}

ssize_t Tap::Send(absl::Span<const struct iovec> from) {
  return base::RetryOnEintr(
      [&] { return ::writev(fd_.get(), from.data(), from.size()); });
}

absl::Status Tap::SetOffloads(const NetOffloads& offloads) {
  unsigned long flags = 0;
  if (offloads.checksum) {  // TUNSETOFFLOAD refuses the others without it
    flags |= TUN_F_CSUM;
    if (offloads.tso4) flags |= TUN_F_TSO4;
    if (offloads.tso6) flags |= TUN_F_TSO6;
    if (offloads.ecn && (offloads.tso4 || offloads.tso6)) {
      flags |= TUN_F_TSO_ECN;
    }
    if (offloads.ufo) flags |= TUN_F_UFO;
  }
  if (::ioctl(fd_.get(), TUNSETOFFLOAD, flags) < 0) {
    return base::ErrnoStatus(
        errno, absl::StrCat("TUNSETOFFLOAD ", flags, " of tap ", name_));
  }
  return absl::OkStatus();
}

absl::Status Tap::SetEnabled(bool enabled) {
  if (!multi_queue_ || enabled == enabled_) return absl::OkStatus();
  struct ifreq request =
      RequestFor("", enabled ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE);
  if (::ioctl(fd_.get(), TUNSETQUEUE, &request) < 0) {
    return base::ErrnoStatus(errno, absl::StrCat("TUNSETQUEUE of tap ", name_));
  }
  enabled_ = enabled;
  return absl::OkStatus();
}

bool Tap::IsGone() {
  struct ifreq request = {};
  return ::ioctl(fd_.get(), TUNGETIFF, &request) < 0 && errno == EBADFD;
}

}  // namespace cloister::devices::virtio
