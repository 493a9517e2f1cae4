# frozen_string_literal: true

# The two tasks for sidekiq; see ../ends.py and ../../timestamps.py for their records.

require "sidekiq"

Sidekiq.configure_server { |config| config.logger.level = Logger::WARN }
Sidekiq.configure_client { |config| config.logger.level = Logger::WARN }

module Timestamps
  LAST = ENV.fetch("FIRELOCK_BENCH_LAST", "0").to_i
  STEP = [1, LAST / 50].max
  LOCK = Mutex.new
  @ended = 0

  def self.write(number)
    now = Process.clock_gettime(Process::CLOCK_REALTIME, :nanosecond)
    @file ||= File.open(ENV.fetch("FIRELOCK_BENCH_TIMESTAMPS"), "a", 0o600)
    @file.syswrite("#{number} #{now}\n")
  end

  def self.count_end
    number = LOCK.synchronize { @ended += 1 }
    write(number) if number % STEP == 0 || number == 1 || number == LAST
  end
end

class Noop
  include Sidekiq::Job

  def perform(_number) = Timestamps.count_end
end

class Stamp
  include Sidekiq::Job

  def perform(number) = Timestamps.write(number)
end
