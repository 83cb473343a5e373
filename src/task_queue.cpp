#include <dmaflow/task_queue.hpp>

#include "event.hpp"

#include <mutex>
#include <utility>
#include <vector>

#include <poll.h>

namespace dmaflow {

struct TaskQueue::Impl {
  explicit Impl(detail::Event made) : event(std::move(made)) {}

  const detail::Event event;  // readable while there are tasks
  std::mutex mutex;
  std::vector<Function<void()>> tasks;
};

TaskQueue::TaskQueue(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
TaskQueue::~TaskQueue() = default;

Result<std::unique_ptr<TaskQueue>> TaskQueue::create() {
  auto event = detail::Event::create({});
  if (!event) return std::unexpected(event.error());
  return std::unique_ptr<TaskQueue>(new TaskQueue(std::make_unique<Impl>(std::move(*event))));
}

void TaskQueue::post(Function<void()> task) {
  if (!task) return;
  const std::lock_guard lock(impl_->mutex);
  impl_->tasks.push_back(std::move(task));
  impl_->event.signal();
}

int TaskQueue::poll_fd() const noexcept { return impl_->event.fd(); }
short TaskQueue::poll_events() const noexcept { return POLLIN; }

Result<void> TaskQueue::dispatch(short) {
  std::vector<Function<void()>> now;
  {
    const std::lock_guard lock(impl_->mutex);
    if (impl_->tasks.empty()) return {};
    impl_->event.clear();
    now.swap(impl_->tasks);
  }
  for (auto& task : now) task();
  return {};
}

}  // namespace dmaflow
