#include <dmaflow/task_queue.hpp>

#include "sys/sys.hpp"

#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/eventfd.h>

namespace dmaflow {

struct TaskQueue::Impl {
  explicit Impl(Fd made) : event(std::move(made)) {}

  const Fd event;  // readable while there are tasks
  std::mutex mutex;
  std::vector<Function<void()>> tasks;
};

TaskQueue::TaskQueue(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
TaskQueue::~TaskQueue() = default;

Result<std::unique_ptr<TaskQueue>> TaskQueue::create() {
  const int event = sys::eventfd(EFD_CLOEXEC | EFD_NONBLOCK);
  if (event < 0) return std::unexpected(Error::os(-event, "eventfd"));
  return std::unique_ptr<TaskQueue>(new TaskQueue(std::make_unique<Impl>(Fd::adopt(event))));
}

void TaskQueue::post(Function<void()> task) {
  if (!task) return;
  const std::lock_guard lock(impl_->mutex);
  impl_->tasks.push_back(std::move(task));
  const std::uint64_t one = 1;
  sys::write(impl_->event.get(), &one, sizeof one);
}

int TaskQueue::poll_fd() const noexcept { return impl_->event.get(); }
short TaskQueue::poll_events() const noexcept { return POLLIN; }

Result<void> TaskQueue::dispatch(short) {
  std::vector<Function<void()>> now;
  {
    const std::lock_guard lock(impl_->mutex);
    if (impl_->tasks.empty()) return {};
    std::uint64_t count = 0;
    sys::read(impl_->event.get(), &count, sizeof count);
    now.swap(impl_->tasks);
  }
  for (auto& task : now) task();
  return {};
}

}  // namespace dmaflow
