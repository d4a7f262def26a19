// SPDX-License-Identifier: Apache-2.0
#if defined(__SANITIZE_THREAD__)
// Boost.Asio's fences, which ThreadSanitizer does not model. Nothing here
// leans on them: what threads share goes through a mutex or asio::post.
#pragma GCC diagnostic ignored "-Wtsan"
#endif

#include "cloister/api/server.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/api/http_session.h"
#include "cloister/base/blocked_signals.h"
#include "cloister/base/syscall.h"

namespace cloister::api {
namespace {

namespace asio = boost::asio;
using ErrorCode = boost::system::error_code;
using Milliseconds = std::chrono::milliseconds;

constexpr Milliseconds kTick(100);
constexpr Milliseconds kAcceptPause(50);
constexpr Milliseconds kGrace(2000);

// What a connection too many gets.
std::string TooMany() {
  const std::string body = Fault(503, "too many connections").body;
  return absl::StrCat(
      "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n"
      "Content-Type: application/json\r\nContent-Length: ",
      body.size(), "\r\n\r\n", body);
}

}  // namespace

class Server::Impl {
 public:
  Impl(ServerOptions options, HttpHandler handler, ApiCounters* counters)
      : max_connections_(options.max_connections),
        on_tick_(std::move(options.tick)),
        counters_(counters) {
    host_.header_limit = options.header_limit;
    host_.body_limit = options.body_limit;
    host_.idle = options.idle;
    host_.answer = options.answer;
    host_.stall = options.stall;
    host_.handler = std::move(handler);
    host_.counters = counters;
    host_.on_close = [this](const std::shared_ptr<HttpSession>& session) {
      auto found = sessions_.find(session);
      if (found == sessions_.end()) return;
      --found->second->sessions;
      sessions_.erase(found);
    };
  }

  absl::Status Listen(int listener, const std::string& token);
  absl::Status Start(std::function<void()> on_thread);
  void Stop();

 private:
  struct Listener {
    explicit Listener(asio::io_context& context, int fd)
        : descriptor(context, fd), pause(context) {}
    asio::posix::stream_descriptor descriptor;
    asio::steady_timer pause;
    std::string token;
    size_t sessions = 0;  // the open ones
  };

  void Accept(Listener* listener);
  void AcceptOne(Listener* listener);
  void Tick();
  void Close();

  const size_t max_connections_;
  const std::function<void()> on_tick_;
  ApiCounters* const counters_;
  // The open ones, and where they came from. The server's thread only. Outlives
  // the context, whose pending operations hold sessions, too.
  std::map<std::shared_ptr<HttpSession>, Listener*> sessions_;
  HttpSessionHost host_;
  asio::steady_timer tick_{host_.context};
  asio::steady_timer grace_{host_.context};
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::thread thread_;
};

absl::Status Server::Impl::Listen(int listener, const std::string& token) {
  const int fd = ::fcntl(listener, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return base::ErrnoStatus(errno, "fcntl F_DUPFD_CLOEXEC");
  listeners_.push_back(std::make_unique<Listener>(host_.context, fd));
  listeners_.back()->token = token;
  return absl::OkStatus();
}

void Server::Impl::Accept(Listener* listener) {
  listener->descriptor.async_wait(asio::posix::stream_descriptor::wait_read,
                                  [this, listener](const ErrorCode& error) {
                                    if (error || host_.closing) return;
                                    AcceptOne(listener);
                                  });
}

void Server::Impl::AcceptOne(Listener* listener) {
  const int fd = ::accept4(listener->descriptor.native_handle(), nullptr,
                           nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) {
    const bool scarce = errno == EMFILE || errno == ENFILE ||
                        errno == ENOBUFS || errno == ENOMEM;
    if (!scarce) return Accept(listener);
    // Would be ready again at once.
    listener->pause.expires_after(kAcceptPause);
    listener->pause.async_wait([this, listener](const ErrorCode& error) {
      if (!error) Accept(listener);
    });
    return;
  }
  base::UniqueFd owned(fd);
  ++counters_->connections;
  if (listener->sessions >= max_connections_) {
    ++counters_->connections_refused;
    // A new connection has room for it.
    const std::string answer = TooMany();
    (void)!::send(fd, answer.data(), answer.size(),
                  MSG_NOSIGNAL | MSG_DONTWAIT);
    ::shutdown(fd, SHUT_WR);
    return Accept(listener);
  }
  HttpSession::Socket socket(host_.context);
  ErrorCode error;
  socket.assign(asio::generic::stream_protocol(AF_UNIX, 0), fd, error);
  if (!error) {
    (void)owned.release();  // the socket's now
    auto session = std::make_shared<HttpSession>(&host_, std::move(socket),
                                                 listener->token);
    sessions_.emplace(session, listener);
    ++listener->sessions;
    session->ReadRequest();
  }
  Accept(listener);
}

void Server::Impl::Tick() {
  if (!on_tick_) return;
  tick_.expires_after(kTick);
  tick_.async_wait([this](const ErrorCode& error) {
    if (error) return;
    on_tick_();
    Tick();
  });
}

absl::Status Server::Impl::Start(std::function<void()> on_thread) {
  for (auto& listener : listeners_) Accept(listener.get());
  Tick();
  // Signals belong to whoever handles them, on another thread.
  const base::BlockedSignals blocked;
  thread_ = std::thread([this, on_thread = std::move(on_thread)] {
    ::pthread_setname_np(::pthread_self(), "api");
    if (on_thread) on_thread();
    auto work = asio::make_work_guard(host_.context);
    host_.context.run();
  });
  return absl::OkStatus();
}

void Server::Impl::Close() {
  host_.closing = true;
  tick_.cancel();
  for (auto& listener : listeners_) {
    ErrorCode ignored;
    listener->pause.cancel();
    listener->descriptor.close(ignored);
  }
  const auto sessions = sessions_;
  for (const auto& [session, listener] : sessions) session->Wind();
  grace_.expires_after(Milliseconds(0));
  const auto end = std::chrono::steady_clock::now() + kGrace;
  auto look = std::make_shared<std::function<void(const ErrorCode&)>>();
  *look = [this, end, weak = std::weak_ptr(look)](const ErrorCode&) {
    if (sessions_.empty() || std::chrono::steady_clock::now() >= end) {
      return host_.context.stop();
    }
    grace_.expires_after(Milliseconds(5));
    grace_.async_wait([look = weak.lock()](const ErrorCode& error) {
      if (look != nullptr) (*look)(error);
    });
  };
  grace_.async_wait([look](const ErrorCode& error) { (*look)(error); });
}

void Server::Impl::Stop() {
  if (!thread_.joinable()) return;
  asio::post(host_.context, [this] { Close(); });
  thread_.join();
  // Those that the grace was too short for.
  sessions_.clear();
  for (auto& listener : listeners_) {
    ErrorCode ignored;
    listener->descriptor.close(ignored);
  }
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Server::~Server() { Stop(); }

absl::StatusOr<std::unique_ptr<Server>> Server::Create(ServerOptions options,
                                                       HttpHandler handler,
                                                       ApiCounters* counters) {
  try {
    return std::unique_ptr<Server>(new Server(std::make_unique<Impl>(
        std::move(options), std::move(handler), counters)));
  } catch (const boost::system::system_error& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat("API server: ", error.what()));
  }
}

absl::Status Server::AddListener(int listener, const std::string& token) {
  return impl_->Listen(listener, token);
}

absl::Status Server::Start(std::function<void()> on_thread) {
  return impl_->Start(std::move(on_thread));
}

void Server::Stop() { impl_->Stop(); }

}  // namespace cloister::api
