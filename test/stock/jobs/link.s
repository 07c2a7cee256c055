// What main.go declares without a body is linked from the job controller.
