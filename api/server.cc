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

#include <atomic>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <cerrno>
#include <optional>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/syscall.h"

namespace cloister::api {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using ErrorCode = boost::system::error_code;
using Socket = asio::generic::stream_protocol::socket;
using Milliseconds = std::chrono::milliseconds;

constexpr char kServerName[] = "Cloister";
constexpr size_t kEventBytes = 64 << 10;  // per write
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
      : options_(std::move(options)),
        handler_(std::move(handler)),
        counters_(counters) {}

  absl::Status Listen(int listener, const std::string& token);
  absl::Status Start(std::function<void()> on_thread);
  void Stop();

 private:
  class Session;
  struct Listener {
    explicit Listener(asio::io_context& context, int fd)
        : descriptor(context, fd), pause(context) {}
    asio::posix::stream_descriptor descriptor;
    asio::steady_timer pause;
    std::string token;
  };

  void Accept(Listener* listener);
  void AcceptOne(Listener* listener);
  void Tick();
  void Close();

  const ServerOptions options_;
  const HttpHandler handler_;
  ApiCounters* const counters_;
  // The open ones. The server's thread only. Outlives the context, whose
  // pending operations hold sessions, too.
  std::set<std::shared_ptr<Session>> sessions_;
  asio::io_context context_{1};
  asio::steady_timer tick_{context_};
  asio::steady_timer grace_{context_};
  std::vector<std::unique_ptr<Listener>> listeners_;
  bool closing_ = false;  // the server's thread only
  std::thread thread_;
};

// One connection. The server holds it until it is closed; pending operations
// do, too, so its buffers outlive them.
class Server::Impl::Session : public std::enable_shared_from_this<Session> {
 public:
  Session(Impl* server, Socket socket, const std::string& token)
      : server_(server),
        socket_(std::move(socket)),
        deadline_(server->context_),
        token_(token),
        buffer_(server->options_.header_limit + (64 << 10)) {}

  void ReadRequest() {
    if (server_->closing_) return Close();
    phase_ = Phase::kReading;
    parser_.emplace();
    parser_->header_limit(server_->options_.header_limit);
    parser_->body_limit(server_->options_.body_limit);
    timed_out_ = false;
    SetDeadline(server_->options_.idle, [](Session& session) {
      // What is pending ends with an error, and its handler sees this.
      session.timed_out_ = true;
      ErrorCode ignored;
      session.socket_.cancel(ignored);
    });
    http::async_read_header(
        socket_, buffer_, *parser_,
        [self = shared_from_this()](ErrorCode error, size_t size) {
          self->OnHeader(error, size);
        });
  }

  // The server ends.
  void Wind() {
    if (phase_ == Phase::kReading && !parser_->got_some()) return Close();
    if (phase_ != Phase::kStreaming) return;
    winding_ = true;
    Pump();
  }

  void Close() {
    phase_ = Phase::kClosed;
    deadline_.cancel();
    events_.reset();
    ErrorCode ignored;
    socket_.shutdown(Socket::shutdown_both, ignored);
    socket_.close(ignored);
    server_->sessions_.erase(shared_from_this());
  }

 private:
  enum class Phase { kReading, kAnswering, kWriting, kStreaming, kClosed };

  void SetDeadline(Milliseconds limit, void (*expire)(Session&)) {
    deadline_.expires_after(limit);
    deadline_.async_wait(
        [weak = weak_from_this(), expire](const ErrorCode& error) {
          auto self = weak.lock();
          if (error || self == nullptr) return;
          // A timer that was set again meanwhile has a later time.
          if (self->deadline_.expiry() > std::chrono::steady_clock::now()) {
            return;
          }
          ++self->server_->counters_->timeouts;
          expire(*self);
        });
  }

  void OnHeader(ErrorCode error, size_t size) {
    // The parser bounds what it keeps, but does not count the start line.
    if (!error && size > server_->options_.header_limit) {
      error = http::error::header_limit;
    }
    if (error) return OnReadError(error);
    if (!token_.empty() && !Authorized()) {
      // Without reading a body from somebody unknown.
      return Refuse(401, "the bearer token is missing or wrong");
    }
    const auto expect = parser_->get()[http::field::expect];
    if (absl::EqualsIgnoreCase(absl::string_view(expect.data(), expect.size()),
                               "100-continue") &&
        !parser_->is_done()) {
      continue_.version(11);
      continue_.result(http::status::continue_);
      http::async_write(
          socket_, continue_,
          [self = shared_from_this()](ErrorCode write_error, size_t) {
            write_error ? self->Close() : self->ReadBody();
          });
      return;
    }
    ReadBody();
  }

  bool Authorized() const {
    const auto value = parser_->get()[http::field::authorization];
    const absl::string_view text(value.data(), value.size());
    constexpr absl::string_view kBearer = "bearer ";
    return absl::StartsWithIgnoreCase(text, kBearer) &&
           SameSecret(text.substr(kBearer.size()), token_);
  }

  void ReadBody() {
    http::async_read(socket_, buffer_, *parser_,
                     [self = shared_from_this()](ErrorCode error, size_t) {
                       error ? self->OnReadError(error) : self->OnRequest();
                     });
  }

  void OnReadError(ErrorCode error) {
    if (phase_ == Phase::kClosed) return;
    if (timed_out_ && !parser_->got_some() && buffer_.size() == 0) {
      return Close();
    }
    if (timed_out_) {
      return Refuse(408, "the request took too long to arrive");
    }
    if (error == http::error::header_limit ||
        error == http::error::buffer_overflow) {
      return Refuse(431,
                    absl::StrCat("the header is larger than ",
                                 server_->options_.header_limit, " bytes"));
    }
    if (error == http::error::body_limit) {
      return Refuse(413, absl::StrCat("the body is larger than ",
                                      server_->options_.body_limit, " bytes"));
    }
    if (error == http::error::end_of_stream) return Close();
    const bool is_http =
        error.category() == make_error_code(http::error::bad_method).category();
    if (!is_http) return Close();
    Refuse(400, absl::StrCat("not HTTP: ", error.message()));
  }

  // An answer before the request was read to its end: the connection cannot be
  // used any more.
  void Refuse(int status, absl::string_view message) {
    ++server_->counters_->bad_requests;
    keep_alive_ = false;
    version_ = 11;
    Write(Fault(status, message));
  }

  void OnRequest() {
    phase_ = Phase::kAnswering;
    auto message = parser_->release();
    HttpRequest request;
    request.method = std::string(message.method_string());
    request.target = std::string(message.target());
    request.body = std::move(message.body());
    version_ = message.version();
    // The answer to HEAD, and to who knows what, would have no body.
    keep_alive_ = message.keep_alive() &&
                  message.method() != http::verb::head &&
                  message.method() != http::verb::connect;
    SetDeadline(server_->options_.answer, [](Session& session) {
      ++session.request_;
      session.keep_alive_ = false;
      session.Write(
          Fault(503, "the request takes too long; it may still be done"));
    });
    Server::Impl* server = server_;
    server_->handler_(request, [server, weak = weak_from_this(),
                                number = request_](HttpResponse response) {
      asio::post(server->context_,
                 [weak, number, response = std::move(response)]() mutable {
                   auto self = weak.lock();
                   if (self == nullptr) return;
                   self->OnAnswer(number, std::move(response));
                 });
    });
  }

  void OnAnswer(uint64_t number, HttpResponse response) {
    if (number != request_ || phase_ != Phase::kAnswering) return;
    ++request_;
    if (response.events != nullptr) return Stream(response);
    Write(std::move(response));
  }

  void Fill(const HttpResponse& from, http::fields* fields) {
    fields->set(http::field::server, kServerName);
    if (from.status != 204) {
      fields->set(http::field::content_type, from.content_type);
    }
    fields->set(http::field::cache_control, "no-store");
  }

  void Write(HttpResponse from) {
    phase_ = Phase::kWriting;
    SetDeadline(server_->options_.idle,
                [](Session& session) { session.Close(); });
    response_ = {};
    response_.version(version_);
    response_.result(static_cast<unsigned>(from.status));
    Fill(from, &response_);
    if (from.status == 401) {
      response_.set(http::field::www_authenticate, "Bearer");
    }
    response_.body() = std::move(from.body);
    response_.prepare_payload();
    // RFC 9110, 8.6: none with 204.
    if (from.status == 204) response_.erase(http::field::content_length);
    if (server_->closing_) keep_alive_ = false;
    response_.keep_alive(keep_alive_);
    http::async_write(socket_, response_,
                      [self = shared_from_this()](ErrorCode error, size_t) {
                        self->OnWritten(error);
                      });
  }

  void OnWritten(ErrorCode error) {
    if (phase_ == Phase::kClosed) return;
    if (error || !keep_alive_) return Linger(error);
    ReadRequest();
  }

  // A client that still writes would lose the answer if the connection were
  // reset under it: takes what has come already, then closes.
  void Linger(ErrorCode error) {
    if (!error) {
      ErrorCode ignored;
      socket_.shutdown(Socket::shutdown_send, ignored);
      char rest[4096];
      socket_.non_blocking(true, ignored);
      for (int i = 0; i < 64; ++i) {
        if (socket_.read_some(asio::buffer(rest), ignored) == 0) break;
      }
    }
    Close();
  }

  // ---- GET /events ----

  void Stream(const HttpResponse& from) {
    phase_ = Phase::kStreaming;
    deadline_.cancel();
    auto head = std::make_shared<http::response<http::empty_body>>();
    head->version(version_);
    head->result(http::status::ok);
    Fill(from, head.get());
    chunked_ = version_ >= 11;
    head->chunked(chunked_);
    head->keep_alive(false);
    Server::Impl* server = server_;
    events_ = from.events->Subscribe([server, weak = weak_from_this()] {
      asio::post(server->context_, [weak] {
        if (auto self = weak.lock()) self->Pump();
      });
    });
    auto serializer =
        std::make_shared<http::response_serializer<http::empty_body>>(*head);
    writing_ = true;
    http::async_write_header(
        socket_, *serializer,
        [self = shared_from_this(), head, serializer](ErrorCode error, size_t) {
          self->OnPumped(error);
        });
    Watch();
  }

  // Ends the stream when the client does, or says anything more.
  void Watch() {
    socket_.async_wait(Socket::wait_read, [self = shared_from_this()](
                                              ErrorCode) { self->Close(); });
  }

  void Pump() {
    if (phase_ != Phase::kStreaming || writing_ || events_ == nullptr) return;
    lines_ = events_->Take(kEventBytes);
    if (lines_.empty()) return winding_ ? EndStream() : void();
    writing_ = true;
    SetDeadline(server_->options_.stall,
                [](Session& session) { session.Close(); });
    auto done = [self = shared_from_this()](ErrorCode error, size_t) {
      self->OnPumped(error);
    };
    if (chunked_) {
      asio::async_write(socket_, http::make_chunk(asio::buffer(lines_)), done);
    } else {
      asio::async_write(socket_, asio::buffer(lines_), done);
    }
  }

  // The server ends, and all events are out.
  void EndStream() {
    if (!chunked_) return Close();
    writing_ = true;
    SetDeadline(server_->options_.idle,
                [](Session& session) { session.Close(); });
    asio::async_write(
        socket_, http::make_chunk_last(),
        [self = shared_from_this()](ErrorCode, size_t) { self->Close(); });
  }

  void OnPumped(ErrorCode error) {
    writing_ = false;
    deadline_.cancel();
    if (phase_ != Phase::kStreaming) return;
    if (error) return Close();
    Pump();
  }

  Server::Impl* const server_;
  Socket socket_;
  asio::steady_timer deadline_;
  const std::string& token_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  http::response<http::empty_body> continue_;
  http::response<http::string_body> response_;
  std::unique_ptr<EventHub::Subscription> events_;
  std::string lines_;
  Phase phase_ = Phase::kReading;
  uint64_t request_ = 0;
  unsigned version_ = 11;
  bool keep_alive_ = true;
  bool timed_out_ = false;
  bool chunked_ = true;
  bool writing_ = false;
  bool winding_ = false;
};

absl::Status Server::Impl::Listen(int listener, const std::string& token) {
  const int fd = ::fcntl(listener, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return base::ErrnoStatus(errno, "fcntl F_DUPFD_CLOEXEC");
  listeners_.push_back(std::make_unique<Listener>(context_, fd));
  listeners_.back()->token = token;
  return absl::OkStatus();
}

void Server::Impl::Accept(Listener* listener) {
  listener->descriptor.async_wait(asio::posix::stream_descriptor::wait_read,
                                  [this, listener](const ErrorCode& error) {
                                    if (error || closing_) return;
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
  if (sessions_.size() >= options_.max_connections) {
    ++counters_->connections_refused;
    // A new connection has room for it.
    const std::string answer = TooMany();
    (void)!::send(fd, answer.data(), answer.size(),
                  MSG_NOSIGNAL | MSG_DONTWAIT);
    ::shutdown(fd, SHUT_WR);
    return Accept(listener);
  }
  Socket socket(context_);
  ErrorCode error;
  socket.assign(asio::generic::stream_protocol(AF_UNIX, 0), fd, error);
  if (!error) {
    (void)owned.release();  // the socket's now
    auto session =
        std::make_shared<Session>(this, std::move(socket), listener->token);
    sessions_.insert(session);
    session->ReadRequest();
  }
  Accept(listener);
}

void Server::Impl::Tick() {
  if (!options_.tick) return;
  tick_.expires_after(kTick);
  tick_.async_wait([this](const ErrorCode& error) {
    if (error) return;
    options_.tick();
    Tick();
  });
}

absl::Status Server::Impl::Start(std::function<void()> on_thread) {
  for (auto& listener : listeners_) Accept(listener.get());
  Tick();
  // Signals belong to whoever handles them, on another thread.
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this, on_thread = std::move(on_thread)] {
    ::pthread_setname_np(::pthread_self(), "api");
    if (on_thread) on_thread();
    auto work = asio::make_work_guard(context_);
    context_.run();
  });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return absl::OkStatus();
}

void Server::Impl::Close() {
  closing_ = true;
  tick_.cancel();
  for (auto& listener : listeners_) {
    ErrorCode ignored;
    listener->pause.cancel();
    listener->descriptor.close(ignored);
  }
  const std::set<std::shared_ptr<Session>> sessions = sessions_;
  for (const auto& session : sessions) session->Wind();
  grace_.expires_after(Milliseconds(0));
  const auto end = std::chrono::steady_clock::now() + kGrace;
  auto look = std::make_shared<std::function<void(const ErrorCode&)>>();
  *look = [this, end, weak = std::weak_ptr(look)](const ErrorCode&) {
    if (sessions_.empty() || std::chrono::steady_clock::now() >= end) {
      return context_.stop();
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
  asio::post(context_, [this] { Close(); });
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

bool SameSecret(absl::string_view a, absl::string_view b) {
  if (a.size() != b.size()) return false;
  volatile unsigned char difference = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference = static_cast<unsigned char>(difference | (a[i] ^ b[i]));
  }
  return difference == 0;
}

}  // namespace cloister::api
