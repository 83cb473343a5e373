#include "fake.hpp"

#include <algorithm>

#include <linux/dma-buf.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

namespace dmaflow::test {
namespace {

void write_event(int fd) {
  const std::uint64_t one = 1;
  EXPECT_EQ(::write(fd, &one, sizeof one), static_cast<ssize_t>(sizeof one));
}

void clear_event(int fd) {
  std::uint64_t count = 0;
  static_cast<void>(::read(fd, &count, sizeof count));
}

Fd new_event() { return Fd::adopt(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }

}  // namespace

PretendDmaBufs::PretendDmaBufs() { sys::set_hook(this); }
PretendDmaBufs::~PretendDmaBufs() { sys::set_hook(nullptr); }

int PretendDmaBufs::before(const sys::Call& call) noexcept {
  if (std::string_view(call.name) == "fstatfs") return pretend;
  if (call.request != DMA_BUF_IOCTL_SYNC) return proceed;
  syncs.push_back(static_cast<const dma_buf_sync*>(call.argument)->flags);
  if (sync_answers.empty()) return pretend;
  const int answer = sync_answers.front();
  sync_answers.pop_front();
  return answer == 0 ? pretend : answer;
}

Fd memfd(std::uint64_t bytes) {
  Fd fd = Fd::adopt(::memfd_create("test", MFD_CLOEXEC));
  EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
  return fd;
}

Buffer memfd_buffer(const Layout& layout, const Constraints& constraints) {
  std::vector<Fd> objects;
  for (const auto bytes : layout.object_sizes(constraints)) {
    if (bytes != 0) objects.push_back(memfd(bytes));
  }
  return must(Buffer::create(layout, objects, {.origin = "test"}), "memfd_buffer");
}

Result<std::vector<Buffer>> FakeAllocator::allocate(const Request& request) {
  asked.push_back(request);
  if (refusal) return std::unexpected(*refusal);
  if (auto good = check_request(request, name_); !good) return std::unexpected(good.error());
  if (request.count > most) return std::unexpected(Error::os(ENOMEM, "allocate", name_));
  Request mine = request;
  mine.constraints.stride_alignment = std::max(mine.constraints.stride_alignment, own.stride_alignment);
  auto layout = linear_layout(mine, name_);
  if (!layout) return std::unexpected(layout.error());
  std::vector<Buffer> buffers;
  for (std::uint32_t i = 0; i < request.count; ++i) buffers.push_back(memfd_buffer(*layout, mine.constraints));
  made += request.count;
  return buffers;
}

FakeSource::FakeSource(std::vector<StreamConfig> offered, std::string name)
    : configs(std::move(offered)), name_(std::move(name)), event_(new_event()) {}

Result<std::vector<StreamConfig>> FakeSource::offers(const StreamRequest& request) {
  std::vector<StreamConfig> fitting;
  for (const StreamConfig& config : configs) {
    if (request.size && *request.size != config.layout.size) continue;
    fitting.push_back(config);
  }
  if (fitting.empty()) return std::unexpected(Error::os(EINVAL, "offers", name_).detail("no such size"));
  return fitting;
}

Result<void> FakeSource::set_output(const StreamConfig& config) {
  EXPECT_FALSE(started);
  const auto natural = std::ranges::find_if(configs, [&](const StreamConfig& own) {
    return own.layout.size == config.layout.size && own.layout.format == config.layout.format;
  });
  if (natural == configs.end()) return std::unexpected(Error::os(EINVAL, "set_output", name_));
  output_ = follows_strides ? config : *natural;
  return {};
}

Result<void> FakeSource::try_output(const Buffer& buffer) {
  if (buffer.layout() != output_.layout) {
    return std::unexpected(Error::os(EINVAL, "try_output", name_).detail("the strides differ"));
  }
  return on_try ? on_try(buffer) : Result<void>{};
}

Result<void> FakeSource::start(std::span<const Buffer> buffers) {
  if (start_error) return std::unexpected(*std::exchange(start_error, std::nullopt));
  auto holds = HoldSet::create({buffers.begin(), buffers.end()});
  if (!holds) return std::unexpected(holds.error());
  holds_ = std::move(*holds);
  queued.clear();
  for (std::uint32_t i = 0; i < buffers.size(); ++i) queued.push_back(i);
  started = true;
  ++starts;
  return {};
}

Result<void> FakeSource::stop() noexcept {
  started = false;
  holds_.reset();
  exposed_.clear();
  exposed_slots_.clear();
  queued.clear();
  return {};
}

Result<void> FakeSource::dispatch(short) {
  while (holds_) {
    const auto back = holds_->take_returned();
    if (!back) break;
    queued.push_back(back->index);
  }
  return {};
}

bool FakeSource::expose() {
  const auto sequence = sequence_++;
  if (!started || queued.empty()) return false;
  FrameInfo info;
  info.sequence = sequence;
  info.timestamp = Deadline::Clock::now().time_since_epoch();
  info.clock = clock;
  if (on_expose) on_expose(info);
  exposed_.push_back(info);
  exposed_slots_.push_back(queued.front());
  queued.erase(queued.begin());
  write_event(event_.get());
  return true;
}

void FakeSource::end() {
  ended_ = true;
  write_event(event_.get());
}

Result<Frame> FakeSource::take() {
  if (take_error) return std::unexpected(*take_error);
  if (exposed_.empty()) {
    clear_event(event_.get());
    if (ended_) return std::unexpected(Error::os(EPIPE, "take", name_));
    return Frame();
  }
  auto frame = holds_->lend(exposed_slots_.front(), exposed_.front(), on_lend ? on_lend() : Fence());
  exposed_.pop_front();
  exposed_slots_.pop_front();
  if (exposed_.empty() && !ended_) clear_event(event_.get());
  return frame;
}

FakeSink::FakeSink(std::string name) : name_(std::move(name)), event_(new_event()) {}

Result<void> FakeSink::check_input(const StreamConfig& config) {
  if (std::ranges::find(takes, config.layout.format) != takes.end()) return {};
  return std::unexpected(Error::os(EINVAL, "check", name_).detail("format %s", config.layout.format.name().c_str()));
}

Result<void> FakeSink::set_input(const StreamConfig& config) { return check_input(config); }

Result<void> FakeSink::import(const Buffer& buffer) {
  ++imports;
  return on_import ? on_import(buffer) : Result<void>{};
}

Result<Frame> FakeSink::accept(Frame frame) {
  if (accept_error) return std::unexpected(*accept_error);
  Frame displaced = std::move(staged_);
  staged_ = std::move(frame);
  return displaced;
}

Result<void> FakeSink::flush() {
  if (busy || hangs || !staged_) return {};
  on_screen_ = std::move(staged_);
  shown.push_back(on_screen_.info().sequence);
  presented_.push_back(Presentation::of(on_screen_.info()));
  presented_.back().presented = Deadline::Clock::now().time_since_epoch();
  busy = always_busy;
  return {};
}

Result<void> FakeSink::dispatch(short revents) {
  if (revents == 0 && wake_at) {
    wake_at.reset();
    ++woken;
  }
  clear_event(event_.get());
  return flush();
}

void FakeSink::flip() {
  busy = false;
  write_event(event_.get());
}

std::size_t FakeSink::take_presented(std::span<Presentation> out) noexcept {
  const auto count = std::min(out.size(), presented_.size());
  std::copy_n(presented_.begin(), count, out.begin());
  presented_.erase(presented_.begin(), presented_.begin() + static_cast<std::ptrdiff_t>(count));
  return count;
}

Result<void> FakeSink::drain(Deadline, const Cancel*) {
  if (hangs) return std::unexpected(Error::os(ETIMEDOUT, "drain", name_));
  busy = false;
  return flush();
}

Result<void> FakeSink::stop() noexcept {
  ++stops;
  if (staged_) ++let_go;
  staged_.release();
  on_screen_.release();
  return {};
}

void expect_all_counted(const Stats& stats) {
  for (const StreamStats& stream : stats.streams) {
    for (const BranchStats& branch : stream.branches) {
      EXPECT_EQ(branch.captured(), stream.captured)
          << stream.name << ", " << branch.name << ": " << branch.delivered << " delivered, " << branch.dropped.total()
          << " dropped, " << branch.failed << " failed, " << branch.held << " held, " << branch.added << " added";
    }
  }
}

StreamConfig small_config(PixelFormat format, Size size) {
  StreamConfig config;
  config.layout = must(Layout::linear(format, size));
  config.interval = {1, 60};
  return config;
}

}  // namespace dmaflow::test
