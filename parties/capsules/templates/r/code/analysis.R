# Frauds and amounts by part of the day: reads ../data, writes ../results, needs no network.
library(jsonlite)

hours <- 6 # of one part of the day
rows <- read.csv("../data/transactions.csv")
from_hour <- as.integer(substr(rows$time, 12, 13)) %/% hours * hours

dir.create("../results", showWarnings = FALSE)
table <- data.frame(
  from_hour = sort(unique(from_hour)),
  transactions = as.vector(tapply(rows$fraud, from_hour, length)),
  frauds = as.vector(tapply(rows$fraud, from_hour, sum)),
  median_amount = as.vector(tapply(rows$amount, from_hour, median))
)
write.csv(table, "../results/by_hour.csv", row.names = FALSE)
confidential <- identical(Sys.getenv("CONFIDENTIAL"), "yes")
summary <- list(confidential = confidential, transactions = nrow(rows), fraud_share = round(mean(rows$fraud), 4))
write(toJSON(summary, auto_unbox = TRUE), "../results/summary.json")
